"""Loads batches in worker processes, and raises an error when such a process dies or hangs."""

from __future__ import annotations

import itertools
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader

from common.data.batching import RankSampler
from common.distributed.preemption import SIGNALS
from common.errors import UserError, first_line
from common.threads import allowed_cores

PREFETCHED = 4  # batches that each loader process keeps ready


def make_loader(
    data: Any,
    sampler: RankSampler,
    collate: Callable[[list[Any]], Any],
    num_workers: int,
    pin_memory: bool,
    timeout_minutes: float,
) -> DataLoader[Any]:
    """A DataLoader of the batches that `sampler` draws from `data`. Call `close_loader` before the program exits."""
    workers = min(num_workers, allowed_cores())  # more would only compete for the cores
    return DataLoader(
        data,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=PREFETCHED if workers else None,
        pin_memory=pin_memory,
        timeout=60 * timeout_minutes if workers else 0,
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),  # separate, because starting an epoch must not change the program's random state
    )


def _ignore_signals(_: int) -> None:
    """Ignore SIGNALS in a loader process.

    torchrun sends its signals to loader processes too, but the trainer needs their batches until it has saved. Because
    they ignore SIGTERM, Python cannot end them at exit and would wait for them, hence `close_loader`.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def close_loader(loader: DataLoader[Any]) -> None:
    """End the loader's processes; those that do not end by themselves are killed."""
    iterator = loader._iterator
    if iterator is None:
        return
    loader._iterator = None
    iterator._shutdown_workers()  # type: ignore[attr-defined] # PyTorch leaves it to garbage collection
    for process in iterator._workers:  # type: ignore[attr-defined] # the same
        if process.is_alive():
            process.kill()
            process.join()


@contextmanager
def loader_errors() -> Iterator[None]:
    """Turn the death or the timeout of a loader process into a UserError."""
    try:
        yield
    except RuntimeError as error:
        if not re.search(r"DataLoader (worker|timed out)", str(error)):
            raise
        raise UserError(
            f"a process that loads data has died or hangs ({first_line(error)}): often the machine has run out of "
            "memory, or its disk does not respond; lower data.num_workers (0 loads in the training process)"
        ) from error


def grouped(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` consecutive batches; the last may be shorter."""
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group
