"""The heartbeat of each rank, which lets the other ranks name a lost one."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
import uuid
from datetime import timedelta

import torch.distributed as dist

from common.distributed.ranks import Ranks, from_main
from common.errors import UserError
from common.wording import counted

BEAT_SECONDS = 1.0
LOOK_SECONDS = 3.0  # between two reads of the other ranks' heartbeats; a rank without a new one is considered lost
LOST = r"Connection (closed|reset)|Broken pipe|Timed out|NCCL"  # in PyTorch's errors after a rank is lost


class Heartbeat:
    """A context manager that, with several ranks, runs a thread that writes a heartbeat to the rendezvous store.

    `at` records what this rank is doing. If it is not called for `timeout_minutes`, the thread prints which ranks this
    one must be waiting for and ends the process, wherever the main thread hangs, so that torchrun can restart the run.
    """

    def __init__(self, ranks: Ranks, timeout_minutes: float) -> None:
        self.ranks, self.timeout_minutes = ranks, timeout_minutes
        self.count = 0
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None
        self.at("its start")

    def at(self, activity: str) -> None:
        """Record what this rank starts to do, for example "a step"."""
        self.activity, self.since = activity, time.monotonic()

    def __enter__(self) -> Heartbeat:
        if self.ranks.world_size > 1:
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            # A separate connection: the process group's may be blocked when this one is needed.
            timeout = timedelta(seconds=10)
            self.store = dist.TCPStore(host, port, wait_for_workers=False, timeout=timeout)  # type: ignore[attr-defined] # public, but not listed as an export
            self.prefix = from_main(uuid.uuid4().hex)  # a store that torchrun hosts keeps its keys after restarts
            self._beat()
            self.thread = threading.Thread(target=self._watch, daemon=True)
            self.thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if self.thread is None:
            return
        try:
            if isinstance(error, RuntimeError) and re.search(LOST, str(error)):
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun is about to send it: name the rank first
                lines = str(error).strip().splitlines()
                excerpt = " ... ".join(dict.fromkeys((lines[0][:200], lines[-1][:200])))
                raise UserError(
                    f"the run has lost a process: {self.missing()}. Unless it was killed, the first error above or in "
                    "the log of its machine says why. "
                    f"The error of this rank: {excerpt}"
                ) from error
        finally:
            self.ended.set()
            self.thread.join()

    def missing(self) -> str:
        """The ranks without a heartbeat, or else those at another activity than this one. Takes a few seconds."""
        try:
            before = self._others()
            time.sleep(LOOK_SECONDS)
            after = self._others()
        except (RuntimeError, dist.DistError):
            return "their store cannot be reached: rank 0 or its torchrun has ended, or the network is down"
        lost = [f"rank {rank} on {after[rank][1]} ({after[rank][2]})" for rank in after if after[rank] == before[rank]]
        if lost:
            return f"no heartbeat from {', '.join(lost)}"
        elsewhere = [
            f"rank {rank} on {host} is at {activity}"
            for rank, (_, host, activity) in after.items()
            if activity != self.activity
        ]
        return ", ".join(elsewhere) or "all ranks are alive and at the same activity: check the network between them"

    def _beat(self) -> None:
        self.count += 1
        self.store.set(f"{self.prefix}/{self.ranks.rank}", f"{self.count}|{socket.gethostname()}|{self.activity}")

    def _others(self) -> dict[int, list[str]]:
        """rank -> [count, host, activity]"""
        ranks = [rank for rank in range(self.ranks.world_size) if rank != self.ranks.rank]
        values = {rank: self.store.get(f"{self.prefix}/{rank}").decode() for rank in ranks}
        return {rank: value.split("|", 2) for rank, value in values.items()}

    def _watch(self) -> None:
        while not self.ended.wait(BEAT_SECONDS):
            try:
                self._beat()
            except (RuntimeError, dist.DistError):
                return  # the store is gone, and the main thread gets its own error
            if time.monotonic() - self.since > 60 * self.timeout_minutes:
                print(
                    f"error: rank {self.ranks.rank} has been at {self.activity} for "
                    f"{counted(self.timeout_minutes, 'minute')} (trainer.timeout_minutes): {self.missing()}",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)
