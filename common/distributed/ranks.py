"""torchrun start-up and the few collectives that training needs; all of it works in a single process too."""

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

from common.errors import UserError

_ENVIRONMENT = (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"))
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


@dataclass(frozen=True)
class Ranks:
    """This process among all: `rank` counts over every machine, `local_rank` over this one (it picks the GPU)."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def start(device: str = "auto", timeout_minutes: float = 10.0) -> Ranks:
    """Join the process group that torchrun describes in the environment; without torchrun, be rank 0 of 1."""
    rank, local_rank, world_size = (int(os.environ.get(k, d)) for k, d in _ENVIRONMENT)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"trainer.device=cuda: local rank {local_rank}, but {torch.cuda.device_count()} GPU(s) are visible; "
                "start fewer processes (--nproc-per-node) or set trainer.device=cpu"
            )
        torch.cuda.set_device(local_rank)
    ranks = Ranks(rank, local_rank, world_size, torch.device(f"cuda:{local_rank}" if device == "cuda" else "cpu"))
    if world_size > 1:
        _end_with_the_agent()
        # common.peers names the missing rank after the timeout; this is for when even that hangs.
        timeout = timedelta(minutes=timeout_minutes + 1)
        dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timeout)
    return ranks


def _end_with_the_agent() -> None:
    """If torchrun itself is killed, get SIGTERM: save and leave, instead of holding the GPU for nobody."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """The sums of each of `values` over all ranks; every rank must call it."""
    if not dist.is_initialized():
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def gather(value: Any) -> list[Any]:
    """`value` of every rank, in their order, on every rank."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_buffers(module: torch.nn.Module) -> None:
    """Give every rank rank 0's buffers."""
    if dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def from_main(value: Any) -> Any:
    """Rank 0's `value` on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
