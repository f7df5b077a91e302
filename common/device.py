"""The device to compute on, and a clock that waits for it."""

from __future__ import annotations

import time
from typing import Literal, get_args

import torch

from common.errors import UserError

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[str, ...] = get_args(Device)


def resolve_device(name: str, index: int = 0, key: str = "device") -> torch.device:
    """Return the device for one of DEVICES; "auto" is a GPU if there is one.

    `index` is the number of the GPU, and `key` is the option that messages name.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if index >= torch.cuda.device_count():
        raise UserError(
            f"{key}=cuda: GPU {index} (counted from 0) was requested, but {torch.cuda.device_count()} are visible; use "
            f"{key}=cpu, or start fewer processes (--nproc-per-node)"
        )
    return torch.device("cuda", index)


def now(device: torch.device) -> float:
    """Return the clock in seconds, once `device` has finished the work of this thread's current stream.

    Waiting for the whole device would fail while another thread captures a CUDA graph (common/ops/graphs.py).
    """
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    return time.perf_counter()
