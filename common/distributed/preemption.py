"""Stopping early, by a signal or because the time is up. All ranks stop at the same step."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

# Kubernetes and torchrun send SIGTERM; Slurm sends the signal that --signal in the job script names.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
TIME_IS_UP = 1  # a reason that is not a signal: its number is SIGHUP's, which is not among SIGNALS
MARKER = "stopped.json"


class StopFlag:
    """Whether and why to stop: 0 (do not stop), TIME_IS_UP, or the number of a signal. `agreed` is equal on all ranks.

    As a context manager it catches SIGNALS. They only set the flag, so that no step or save is interrupted, not even by
    a second signal.
    """

    def __init__(self) -> None:
        self.reason = 0  # of this rank
        self._before: dict[int, Any] = {}
        self._group: dist.ProcessGroup | None = None
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    def __enter__(self) -> StopFlag:
        if dist.is_initialized():
            self._group = dist.new_group(backend="gloo")  # on the CPU, so that no GPU waits for it
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._catch) for number in SIGNALS}
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._pending is not None and kind is None:
            self._pending[0].wait()
        self._pending = None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, _: FrameType | None) -> None:
        self.reason = number

    def set(self, reason: int) -> None:
        """Request a stop, unless there already is a reason for one."""
        self.reason = self.reason or reason

    def agreed(self) -> int:
        """The largest reason over all ranks; all ranks must call it the same number of times.

        With several ranks it returns the result of the previous call, so that no rank has to wait for the others.
        """
        if self._group is None:
            return self.reason
        answer = 0
        if self._pending is not None:
            work, tensor = self._pending
            work.wait()
            answer = int(tensor)
        tensor = torch.tensor(self.reason)
        work = dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._pending = (work, tensor)
        return answer


def write_marker(run_dir: Path, reason: int, step: int) -> None:
    """Record in the run directory that a signal ended the run early."""
    content = {"signal": signal.Signals(reason).name, "step": step, "time": round(time.time(), 3)}
    (run_dir / MARKER).write_text(json.dumps(content) + "\n", encoding="utf-8")
