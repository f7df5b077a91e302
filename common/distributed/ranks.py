"""The ranks of a run under torchrun, and the few collectives that training needs.

All of it also works in one process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from common.device import resolve_device

_ENVIRONMENT = (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_WORLD_SIZE", "1"))
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


@dataclass(frozen=True)
class Ranks:
    """This process: `rank` counts over all machines, `local_rank` over this one, where it selects the GPU."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    local_world_size: int = 1  # the ranks on this machine

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def start_ranks(device: str = "auto", timeout_minutes: float = 10.0) -> Ranks:
    """Join the process group that torchrun describes in the environment; without torchrun, be rank 0 of 1."""
    rank, local_rank, world_size, local = (int(os.environ.get(name, default)) for name, default in _ENVIRONMENT)
    ranks = Ranks(rank, local_rank, world_size, resolve_device(device, local_rank, "trainer.device"), local)
    if ranks.device.type == "cuda":
        torch.cuda.set_device(ranks.device)
    if world_size > 1:
        stop_with_the_agent()
        # The heartbeat names the lost rank after the timeout; this is the fallback in case the heartbeat hangs too.
        timeout = timedelta(minutes=timeout_minutes + 1)
        dist.init_process_group("nccl" if ranks.device.type == "cuda" else "gloo", timeout=timeout)
    return ranks


def stop_with_the_agent() -> None:
    """Request SIGTERM if torchrun itself is killed, so that this process saves and exits instead of occupying a GPU."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def stop_ranks() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until all ranks have called this."""
    if dist.is_initialized():
        dist.barrier()


def sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """The sum of each of `values` over all ranks; all ranks must call it."""
    if not dist.is_initialized():
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def gather(value: Any) -> list[Any]:
    """The `value` of each rank, ordered by rank; all ranks must call it."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_buffers(module: torch.nn.Module) -> None:
    """Give all ranks the buffers of rank 0."""
    if dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def from_main(value: Any) -> Any:
    """The `value` of rank 0, on all ranks."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
