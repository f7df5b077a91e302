"""Stopping before the end: a signal, or the time is up. All ranks stop at the same step, whoever was told."""

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

SIGNALS = (
    signal.SIGTERM,
    signal.SIGUSR1,
)  # of preemption: Kubernetes and torchrun send the first, Slurm what it is told
TIME_IS_UP = 1  # no signal that can be caught has this number but SIGHUP, which is not among SIGNALS
MARKER = "stopped.json"


class StopFlag:
    """Why to stop, the same on every rank: 0, TIME_IS_UP, or the number of a signal.

    As a context manager it catches SIGNALS: they only set the flag, so that nothing is torn, not even by a second one.
    """

    def __init__(self) -> None:
        self.reason = 0  # of this rank
        self._before: dict[int, Any] = {}
        self._group: dist.ProcessGroup | None = None
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    def __enter__(self) -> StopFlag:
        if dist.is_initialized():
            self._group = dist.new_group(backend="gloo")  # on the CPU: no GPU waits for it
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
        """Stop at the next occasion, unless a signal is the reason already."""
        self.reason = self.reason or reason

    def agreed(self) -> int:
        """The largest reason of any rank; all ranks must call it equally often.

        With several ranks the answer is that of the call before, so that no rank waits for another's.
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
    """Say beside the checkpoints that a signal ended the run before its time."""
    content = {"signal": signal.Signals(reason).name, "step": step, "time": round(time.time(), 3)}
    (run_dir / MARKER).write_text(json.dumps(content) + "\n", encoding="utf-8")
