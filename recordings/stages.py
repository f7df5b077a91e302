"""Stages of a long job: each is a command that is run once, and again if what it reads has changed.

A file in the work folder says of each stage what it read when it was last run, and whether it ended. A stage whose
options or files have changed starts from nothing: what it had made is kept beside it, as NAME.old.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from common.errors import UserError
from common.files import write_text
from common.signals import SIGNALED, SIGNALS

RECORD = "stages.json"
STOPPED = {kind for number in SIGNALS for kind in (-number, SIGNALED + number)}  # status


@dataclass(frozen=True)
class Stage:
    """A command, and the files that decide what it makes."""

    name: str
    says: str  # what it does, for the display
    command: Sequence[str]
    reads: Sequence[Path] = ()  # their contents decide, with `key`, whether the stage is stale
    output: Path | None = None  # what is set aside if the stage is stale; None: the command sees to it itself
    minutes: float = 0.1  # about how long it takes
    goes_on: bool = True  # with what an interrupted run left in `output`; else that is set aside too
    key: Sequence[str] = ()  # what changes the result, beside `reads`; (): the whole command

    @property
    def is_cheap(self) -> bool:
        """Whether the command finds out itself, in seconds, what is left to do."""
        return self.output is None

    def fingerprint(self) -> str:
        """A digest of what decides the result."""
        digest = hashlib.sha256(json.dumps(list(self.key or self.command)).encode())
        for path in self.reads:
            digest.update(path.read_bytes() if path.is_file() else b"missing")
        return digest.hexdigest()


class Runner:
    """Runs the stages of a job in their order, with what is known of them in `folder`.

    `planned`: about how many minutes each stage takes, by name, for the stages that are still to come.
    """

    def __init__(self, folder: Path, planned: dict[str, float] | None = None) -> None:
        self.path, self.planned = folder / RECORD, planned or {}
        self.record: dict[str, dict[str, object]] = {}
        with contextlib.suppress(OSError, ValueError):  # none, or a damaged one: everything is checked again
            self.record = dict(json.loads(self.path.read_text(encoding="utf-8")))

    def is_done(self, stage: Stage) -> bool:
        """Whether the stage has ended, and nothing that it read has changed."""
        found = self.record.get(stage.name, {})
        exists = stage.output is None or stage.output.exists()
        return exists and found.get("done") is True and found.get("fingerprint") == stage.fingerprint()

    def run(self, stage: Stage, where: str) -> None:
        """Run the stage unless it is done; `where` is its place, such as "3/8". Raises UserError if it fails."""
        self.planned[stage.name] = stage.minutes
        left = sum(self.planned.values())
        del self.planned[stage.name]
        if self.is_done(stage) and not stage.is_cheap:
            print(f"\n[{where}] {stage.says}: done before", flush=True)
            return
        fingerprint = stage.fingerprint()
        is_same = self.record.get(stage.name, {}).get("fingerprint") == fingerprint
        if stage.output is not None and not (is_same and stage.goes_on):
            set_aside(stage.output)
        self._note(stage, fingerprint, False)
        time_left = f", {duration(left)} to the end" if self.planned else ""
        about = f"about {duration(stage.minutes)}{time_left}"
        print(f"\n[{where}] {stage.says} ({about})\n$ {shlex.join(stage.command)}", flush=True)
        start = time.monotonic()
        status = status_of(stage.command)
        self._note(stage, fingerprint, not status, time.monotonic() - start)  # of what was there when it began
        if status in STOPPED:
            raise UserError(f"the stage {stage.name!r} was stopped; run the same command again: it goes on here")
        if status:
            raise UserError(
                f"the stage {stage.name!r} ended with status {status}; its message is above. Correct that, and run the "
                "same command again: it goes on here"
            )

    def _note(self, stage: Stage, fingerprint: str, done: bool, seconds: float | None = None) -> None:
        before = self.record.get(stage.name, {}).get("seconds", 0.0)
        is_same = self.record.get(stage.name, {}).get("fingerprint") == fingerprint
        spent = (float(str(before)) if is_same else 0.0) + (seconds or 0.0)
        self.record[stage.name] = {
            "fingerprint": fingerprint,
            "done": done,
            "seconds": round(spent, 1),
            "output": stage.output and os.path.abspath(stage.output),
        }
        write_text(self.path, json.dumps(self.record, indent=1) + "\n")


def status_of(command: Sequence[str]) -> int:
    """Run a command to its end, and pass on to it what asks this process to stop, so that it can save its work.

    It has a process group of its own: a terminal's Ctrl-C reaches it once, by this process, since a second one ends a
    training at once.
    """
    process = subprocess.Popen(command, process_group=0)

    def pass_on(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    caught = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in caught}
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def set_aside(path: Path) -> None:
    """Rename what is at `path`, if anything is there, to a free name: PATH.old, PATH.old2, ..."""
    if not path.exists():
        return
    names = (path.with_name(f"{path.name}.old{number}") for number in itertools.chain([""], itertools.count(2)))
    kept = next(name for name in names if not name.exists())
    path.rename(kept)
    print(f"{path} is what an earlier run made, from other input or not to its end; it is kept as {kept}", flush=True)


def duration(minutes: float) -> str:
    """90 -> "1.5 hours", 3 -> "3 minutes", 0.2 -> "12 seconds"."""
    if minutes >= 90:
        return f"{minutes / 60:.1f} hours"
    return f"{minutes:.0f} minutes" if minutes >= 2 else f"{60 * minutes:.0f} seconds"
