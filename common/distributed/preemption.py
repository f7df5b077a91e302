"""Stopping early, by a signal or because the time is up, and saving by the clock: all ranks at the same step."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from common.errors import UserError
from common.signals import SIGNALED, SIGNALS

TIME_IS_UP = 1  # a reason to stop
MARKER = "stopped.json"


class StopNow(Exception):  # noqa: N818 (not an error)
    """Raised by StopFlag.waiting: a signal asks the run to stop."""


class StopFlag:
    """Whether and why to stop: 0 (do not stop), TIME_IS_UP, or SIGNALED + the number of a signal.

    As a context manager it catches SIGNALS, except those that the parent process set to be ignored (nohup). They only
    set the flag, so that no step or save is interrupted, not even by a second signal. Only a second Ctrl-C ends the
    process at once.
    """

    def __init__(self) -> None:
        self.reason = 0  # of this rank; the result of `agreed` is equal on all ranks
        self.is_waiting = False
        self.save_wanted = False  # by this rank
        self.save_agreed = False  # by all ranks: save after this step
        self._before: dict[int, Any] = {}
        self._group: dist.ProcessGroup | None = None

    def __enter__(self) -> StopFlag:
        if dist.is_initialized():
            self._group = dist.new_group(backend="gloo")  # on the CPU, so that no GPU waits for it
        if threading.current_thread() is threading.main_thread():
            caught = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._catch) for number in caught}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason == SIGNALED + number:
            raise KeyboardInterrupt
        self.reason = SIGNALED + number
        if self.is_waiting:
            raise StopNow

    @contextmanager
    def waiting(self, seconds: float, what: str) -> Iterator[None]:
        """The block waits for something that may never come.

        Raises StopNow when a signal asks the run to stop, and a UserError with the message `what` after `seconds`, even
        if the block is in a system call.
        """
        if not self._before:  # not in the main thread, which alone gets signals
            yield
            return

        def ring(*_: object) -> None:
            raise UserError(what)

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        self.is_waiting = True
        try:
            if self.reason > SIGNALED:
                raise StopNow
            yield
        finally:
            self.is_waiting = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def set(self, reason: int) -> None:
        """Request a stop, unless there already is a reason for one."""
        self.reason = self.reason or reason

    def agreed(self) -> int:
        """The largest reason over all ranks; all ranks must call it the same number of times.

        It also sets `save_agreed` if any rank wanted to save.
        """
        answers = torch.tensor([self.reason, int(self.save_wanted)])
        if self._group is not None:
            dist.all_reduce(answers, dist.ReduceOp.MAX, group=self._group)
        reason, save = map(int, answers)
        self.save_wanted = False
        self.save_agreed = self.save_agreed or bool(save)
        return reason


def write_marker(run_dir: Path, reason: int, step: int) -> None:
    """Record in the run directory that a signal ended the run early."""
    content = {"signal": signal.Signals(reason - SIGNALED).name, "step": step, "time": round(time.time(), 3)}
    (run_dir / MARKER).write_text(json.dumps(content) + "\n", encoding="utf-8")
