"""Runs one function on many jobs, in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from tqdm import tqdm

from common.threads import allowed_cores

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_parallel(
    function: Callable[[Job], Result], jobs: Sequence[Job], num_processes: int | None, unit: str
) -> Iterator[Result]:
    """Yield function(job) for each job, in order, with a progress bar.

    `num_processes`: None means one for each core that this process may use. There are never more processes than jobs;
    if that leaves one, the jobs run in this process.
    """
    count = min(num_processes or allowed_cores(), len(jobs))
    if count <= 1:
        yield from tqdm(map(function, jobs), total=len(jobs), unit=unit, disable=None)
        return
    # "spawn", because PyTorch can hang in a process forked from one that has used its thread pool. One thread each, so
    # that the processes do not compete for the cores.
    with multiprocessing.get_context("spawn").Pool(count, torch.set_num_threads, (1,)) as pool:
        yield from tqdm(pool.imap(function, jobs, chunksize=4), total=len(jobs), unit=unit, disable=None)
