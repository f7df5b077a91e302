"""Loads batches in worker processes, and raises an error when such a process dies."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader

from common.data.batching import RankSampler
from common.errors import UserError, first_line
from common.signals import SIGNALS
from common.threads import allowed_cores
from common.wording import counted

PREFETCHED = 4  # batches that each loader process keeps ready
PLENTY = 8e9  # bytes of shared memory
END_SECONDS = 10.0  # for the processes to end
SHARED_MEMORY = "/dev/shm"  # through which loader processes hand over batches
MAX_SOCKET_DIRECTORY = 70  # characters, such that the paths of the processes' sockets are at most 108


class Loader:
    """The batches that `sampler` draws from `data`, loaded in `num_workers` processes.

    It waits for each batch in the context `waiting`, which may end the wait with an exception; iteration cannot go on
    after that. Call `close` before the program exits.
    """

    def __init__(
        self,
        data: Any,
        sampler: RankSampler,
        collate: Callable[[list[Any]], Any],
        num_workers: int,
        pin_memory: bool,
    ) -> None:
        self.waiting: Callable[[], AbstractContextManager[None]] = nullcontext
        self.loader: DataLoader[Any] = DataLoader(
            data,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            prefetch_factor=PREFETCHED if num_workers else None,
            pin_memory=pin_memory,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # separate: starting an epoch must not change the program's random state
        )

    def __iter__(self) -> Iterator[Any]:
        # The first time it starts the processes, without waiting; if interrupted, `close` would not know them.
        # Later it waits until they are ready for the next epoch.
        with loader_errors(), nullcontext() if self.loader._iterator is None else self.waiting():
            batches = iter(self.loader)
        while True:
            with loader_errors(), self.waiting():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def close(self) -> None:
        """Kill the processes, which only read. PyTorch would ask them to end, and wait without a limit."""
        iterator: Any = self.loader._iterator
        if iterator is None:
            return
        self.loader._iterator = None
        torch._C._remove_worker_pids(id(iterator))  # else their death is an error
        iterator._shutdown = True  # all that PyTorch does at the iterator's end is done here
        if self.loader.pin_memory:
            iterator._pin_memory_thread_done_event.set()
        for queue in iterator._index_queues:
            queue.cancel_join_thread()
            queue.close()
        for process in iterator._workers:
            process.kill()
        for process in iterator._workers:
            process.join(END_SECONDS)  # a process that waits for a dead disk cannot be killed


def no_batch(minutes: float) -> str:
    """The error message after waiting for a batch that long."""
    return (
        f"the processes that load data have given no batch for {counted(minutes, 'minute')} (trainer.timeout_minutes): "
        "often a disk does not respond; data.num_workers=0 loads in the training process"
    )


def num_workers(wanted: int, batch_bytes: Callable[[], int], num_ranks: int = 1) -> int:
    """How many loader processes to use: at most `wanted`, as many as there are cores and as the shared memory allows.

    `batch_bytes` computes the size of the largest batch; it is called if there is little shared memory, which
    `num_ranks` share.
    """
    count = min(wanted, allowed_cores())  # more would only compete for the cores
    if not count or not os.path.isdir(SHARED_MEMORY):
        return count
    try:
        multiprocessing.get_context().Lock()
        torch.zeros(1).share_memory_()
        free = os.statvfs(SHARED_MEMORY).f_bavail * os.statvfs(SHARED_MEMORY).f_frsize
    except (OSError, RuntimeError) as error:
        free, reason = 0, f"cannot be used ({first_line(error)})"
    else:
        reason = f"has only {free / 1e6:,.0f} MB free"
    if free > PLENTY * num_ranks:
        return count
    fitting = free // (num_ranks * (PREFETCHED + 1) * max(1, batch_bytes()))
    if fitting < count:
        print(
            f"warning: {SHARED_MEMORY} {reason}: {counted(fitting, 'process', 'processes')} load data instead of "
            f"{count}, which may be slower; in a container, enlarge it (docker run --shm-size=8g)",
            file=sys.stderr,
        )
    return int(min(count, fitting))


def _start_worker(_: int) -> None:
    """Prepare a loader process.

    It ignores SIGNALS. torchrun sends its signals to loader processes too, but the trainer needs their batches until it
    has saved. Because they ignore SIGTERM, Python cannot end them at exit and would wait for them, hence Loader.close.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if len(tempfile.gettempdir()) > MAX_SOCKET_DIRECTORY:
        tempfile.tempdir = "/tmp"
    sys.excepthook = _unless_interrupted


def _unless_interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception of a loader process, unless the trainer stopped taking the batch that is handed over."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


@contextmanager
def loader_errors() -> Iterator[None]:
    """Turn the death of a loader process into a UserError."""
    try:
        yield
    except (RuntimeError, EOFError, ConnectionError) as error:  # the last two if it dies while it hands over a batch
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        reason = first_line(error) or "its connection ended"
        raise UserError(
            f"a process that loads data has died ({reason}): often the machine has run out of memory, or of "
            f"{SHARED_MEMORY}; lower data.num_workers (0 loads in the training process)"
        ) from error


def grouped(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` consecutive batches; the last may be shorter."""
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group
