"""The heartbeat of each rank, by which the others can name the one that was lost."""

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

BEAT_SECONDS = 1.0
LOOK_SECONDS = 3.0  # between two looks at the other ranks: one that did not beat in between is considered lost
LOST = r"Connection (closed|reset)|Broken pipe|Timed out|NCCL"  # how PyTorch's errors tell that a rank is gone


class Heartbeat:
    """As a context manager, with several ranks: a thread that beats in the store where the ranks have met.

    `at` says what this rank is doing. If that stays the same for `timeout_minutes`, the rank names those that it must
    be waiting for and ends the process, wherever the main thread hangs, so that torchrun can restart the run.
    """

    def __init__(self, ranks: Ranks, timeout_minutes: float) -> None:
        self.ranks, self.timeout_minutes = ranks, timeout_minutes
        self.count = 0
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None
        self.at("its start")

    def at(self, activity: str) -> None:
        """Say what this rank starts to do, for example "a step"."""
        self.activity, self.since = activity, time.monotonic()

    def __enter__(self) -> Heartbeat:
        if self.ranks.world_size > 1:
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            # Its own connection: that of the process group may be blocked when this one is needed.
            self.store = dist.TCPStore(host, port, wait_for_workers=False, timeout=timedelta(seconds=10))
            self.prefix = from_main(uuid.uuid4().hex)  # under an agent the store survives restarts
            self._beat()
            self.thread = threading.Thread(target=self._watch, daemon=True)
            self.thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if self.thread is None:
            return
        try:
            if isinstance(error, RuntimeError) and re.search(LOST, str(error)):
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the agent is about to send it: name the rank first
                lines = str(error).strip().splitlines()
                excerpt = " ... ".join(dict.fromkeys((lines[0][:200], lines[-1][:200])))
                raise UserError(
                    f"the run has lost a process: {self.missing()}; see its own message. The error here: {excerpt}"
                ) from error
        finally:
            self.ended.set()
            self.thread.join()

    def missing(self) -> str:
        """The ranks without a heartbeat, or else those that do something else than this one. Takes some seconds."""
        try:
            before = self._others()
            time.sleep(LOOK_SECONDS)
            after = self._others()
        except (RuntimeError, dist.DistError):
            return "rank 0, which all others depend on, has ended or cannot be reached"
        lost = [f"rank {rank} on {after[rank][1]} ({after[rank][2]})" for rank in after if after[rank] == before[rank]]
        if lost:
            return f"no heartbeat from {', '.join(lost)}"
        elsewhere = [
            f"rank {rank} on {host} is at {activity}"
            for rank, (_, host, activity) in after.items()
            if activity != self.activity
        ]
        return ", ".join(elsewhere) or "all ranks are alive, at the same place: check the network between them"

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
                return  # the store ended with rank 0: the main thread gets its own error
            if time.monotonic() - self.since > 60 * self.timeout_minutes:
                print(
                    f"error: rank {self.ranks.rank} has been at {self.activity} for {self.timeout_minutes:g} minutes "
                    f"(trainer.timeout_minutes): {self.missing()}",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)
