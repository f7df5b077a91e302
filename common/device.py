"""Which device to compute on, and a clock that waits for it."""

from __future__ import annotations

import time
from typing import Literal, get_args

import torch

from common.errors import UserError

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[str, ...] = get_args(Device)


def resolve_device(name: str, index: int = 0, key: str = "device") -> torch.device:
    """The device for one of DEVICES: "auto" is a GPU where there is one. `index` numbers the GPU, `key` is the
    option."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if index >= torch.cuda.device_count():
        raise UserError(
            f"{key}=cuda: GPU {index} was asked for, {torch.cuda.device_count()} are visible; use {key}=cpu, or start "
            "fewer processes (--nproc-per-node)"
        )
    return torch.device("cuda", index)


def now(device: torch.device) -> float:
    """Seconds on a clock, read once `device` has finished the work it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
