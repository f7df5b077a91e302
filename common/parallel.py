"""Runs one function on many jobs, in several processes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch
from tqdm import tqdm

from common.errors import UserError
from common.signals import SIGNALS
from common.threads import allowed_cores
from common.wording import counted

CHUNK = 4  # jobs that a process takes at once
AHEAD = 4  # chunks for each process that are in progress or done
PATIENCE = 10.0  # minutes
Job = TypeVar("Job")
Result = TypeVar("Result")


def in_parallel(
    function: Callable[[Job], Result], jobs: Sequence[Job], num_processes: int | None, unit: str
) -> Generator[Result]:
    """Yield function(job) for each job, in order, with a progress bar.

    `num_processes`: None means one for each core that this process may use. There are never more processes than jobs;
    if that leaves one, the jobs run in this process. Raises UserError if one of the processes is killed, or does not
    finish CHUNK jobs within PATIENCE minutes.
    """
    count = min(num_processes or allowed_cores(), len(jobs))
    if count <= 1:
        yield from tqdm(map(function, jobs), total=len(jobs), unit=unit, disable=None)
        return
    # "spawn", because PyTorch can hang in a process forked from one that has used its thread pool.
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _start_process)
    chunks = (pool.submit(_run, function, jobs[i : i + CHUNK]) for i in range(0, len(jobs), CHUNK))
    try:
        ahead = deque(itertools.islice(chunks, AHEAD * count))  # few, because results wait in memory
        with tqdm(total=len(jobs), unit=unit, disable=None) as bar:
            while ahead:
                results = ahead.popleft().result(60 * PATIENCE)
                ahead.extend(itertools.islice(chunks, 1))
                for result in results:
                    bar.update()
                    yield result
    except TimeoutError as error:
        _kill(pool)
        raise UserError(
            f"the processes have given no result for {counted(PATIENCE, 'minute')}: often a disk does not respond, or "
            "a process was stopped; run this again"
        ) from error
    except BrokenProcessPool as error:
        raise UserError(
            f"one of the {count} processes was killed, often because the machine has run out of memory; run this again "
            f"with fewer: num_processes={count // 2}"
        ) from error
    except BaseException:  # such as an interrupt: the jobs in progress may be long
        _kill(pool)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def in_own_process(function: Callable[[Job], Result], job: Job) -> Result:
    """function(job), in a process that ends with it: its threads and its memory do not stay. Raises UserError if the
    process is killed."""
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_start_helper)
    try:
        return pool.submit(function, job).result()
    except BrokenProcessPool as error:
        raise UserError("its process was killed, often because the machine has run out of memory") from error
    except BaseException:
        _kill(pool)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _run(function: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    return [function(job) for job in jobs]


def _kill(pool: ProcessPoolExecutor) -> None:
    for process in list((pool._processes or {}).values()):
        process.kill()


def _start_process() -> None:
    torch.set_num_threads(1)  # so that the processes do not compete for the cores
    _start_helper()


def _start_helper() -> None:
    for number in SIGNALS:  # sent to all processes by torchrun or a terminal; the first one ends the others
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """End this process if the one that gives it jobs is killed; it would wait for the next job for ever."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
