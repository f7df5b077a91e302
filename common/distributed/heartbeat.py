"""Which rank is missing: every rank of a distributed run gives signs of life, and says so when another's stop."""

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

from common.distributed import ranks as distributed
from common.distributed.ranks import Ranks
from common.errors import UserError

BEAT_SECONDS = 1.0
LOST = r"Connection (closed|reset)|Broken pipe|Timed out|NCCL"
LOOK_SECONDS = 3.0  # between two looks at the others' beats: who has not beaten meanwhile is gone


class Peers:
    """As a context manager, with several ranks: a thread that beats in the store where the ranks met.

    `at` says what this rank is doing. If that stays the same for `timeout_minutes`, the rank names those that it must
    be waiting for and ends the process, whatever the main thread hangs in, so that torchrun can start the run again.
    """

    def __init__(self, ranks: Ranks, timeout_minutes: float) -> None:
        self.ranks, self.timeout_minutes = ranks, timeout_minutes
        self.count = 0
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None
        self.at("its start")

    def at(self, doing: str) -> None:
        """Say what this rank begins to do, "a step" for instance."""
        self.doing, self.since = doing, time.monotonic()

    def __enter__(self) -> Peers:
        if self.ranks.world_size > 1:
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            # A connection of its own: the process group's may be blocked when this one is needed.
            self.store = dist.TCPStore(host, port, wait_for_workers=False, timeout=timedelta(seconds=10))
            self.prefix = distributed.from_main(uuid.uuid4().hex)  # under an agent the store outlives restarts
            self._beat()
            self.thread = threading.Thread(target=self._watch, daemon=True)
            self.thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if self.thread is None:
            return
        try:
            if isinstance(error, RuntimeError) and re.search(LOST, str(error)):
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which the agent is about to send: first say why
                lines = str(error).strip().splitlines()
                said = " ... ".join(dict.fromkeys((lines[0][:200], lines[-1][:200])))
                raise UserError(
                    f"the run has lost a process: {self.missing()}; see its own message. Here it was: {said}"
                ) from error
        finally:
            self.ended.set()
            self.thread.join()

    def missing(self) -> str:
        """Who gives no sign of life, or else who does something else than this rank; takes some seconds."""
        try:
            before = self._others()
            time.sleep(LOOK_SECONDS)
            after = self._others()
        except (RuntimeError, dist.DistError):
            return "rank 0, which all others depend on, has ended or cannot be reached"
        gone = [f"rank {rank} on {after[rank][1]} ({after[rank][2]})" for rank in after if after[rank] == before[rank]]
        if gone:
            return f"no sign of life from {', '.join(gone)}"
        other = [
            f"rank {rank} on {host} is at {doing}" for rank, (_, host, doing) in after.items() if doing != self.doing
        ]
        return ", ".join(other) or "all ranks are alive, at the same place: look at the network between them"

    def _beat(self) -> None:
        self.count += 1
        self.store.set(f"{self.prefix}/{self.ranks.rank}", f"{self.count}|{socket.gethostname()}|{self.doing}")

    def _others(self) -> dict[int, list[str]]:
        """rank -> [count, host, what it does]"""
        ranks = [rank for rank in range(self.ranks.world_size) if rank != self.ranks.rank]
        values = {rank: self.store.get(f"{self.prefix}/{rank}").decode() for rank in ranks}
        return {rank: value.split("|", 2) for rank, value in values.items()}

    def _watch(self) -> None:
        while not self.ended.wait(BEAT_SECONDS):
            try:
                self._beat()
            except (RuntimeError, dist.DistError):
                return  # the store ends with rank 0: the main thread hears of it by itself
            if time.monotonic() - self.since > 60 * self.timeout_minutes:
                print(
                    f"error: rank {self.ranks.rank} has been at {self.doing} for {self.timeout_minutes:g} minutes "
                    f"(trainer.timeout_minutes): {self.missing()}",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)
