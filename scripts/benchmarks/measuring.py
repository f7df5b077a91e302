"""Time and memory of a function."""

from __future__ import annotations

import ctypes
import gc
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common.device import now

# Untimed calls. On a GPU the first captures graphs, the second those that became invalid because a later graph of the
# first needed more memory (common/ops/graphs.py), and the third finds the memory that the captures gave back.
WARM_UP = {"cpu": 1, "cuda": 3}


def seconds_of(function: Callable[[], object], runs: int, device: str) -> list[float]:
    """The seconds of each of `runs` calls, after untimed ones."""
    times, where, warm_up = [], torch.device(device), WARM_UP[device]
    for i in range(warm_up + runs):
        start = now(where)
        function()
        if i >= warm_up:
            times.append(now(where) - start)
    return times


def measured(function: Callable[[], object], case: dict[str, Any]) -> dict[str, Any]:
    """Run `function`, and return the seconds of each run and the peak memory in MB, in total and as growth."""
    device = case["device"]
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # returns memory that building the models has freed
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    times = seconds_of(function, case["runs"], device)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 1024 * _peak_kib()
    return {"seconds": times, "megabytes": (peak - before) / 1e6, "peak_megabytes": peak / 1e6}


def _peak_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
