"""Sends the record of a run to an optional tracker, in a thread, so that no network holds up or ends the training."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import first_line
from common.files import write_text
from common.tracking.board import Connect, RemoteBoard
from common.wording import counted

PAUSES = (1, 2, 4, 8, 16, 32, 64)  # seconds before each further try; then the record is dropped
MAX_WAITING = 64 * 2**20  # bytes of records that wait for the network; beyond, the oldest are dropped
GRACE = 10.0  # seconds for what still waits at the end: a scheduler may not give more


@dataclass
class Sent:
    """What the tracker already has, in run_dir/trackers/NAME.json."""

    run: dict[str, str] = field(default_factory=dict)  # RemoteBoard.run
    steps: dict[str, int] = field(default_factory=dict)  # the latest step of each name

    @classmethod
    def read(cls, path: Path) -> Sent:
        """Nothing, if there is no such file or it is damaged."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            run = {str(key): str(value) for key, value in values["run"].items()}
            return cls(run, {str(key): int(value) for key, value in values["steps"].items()})
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return cls()


@dataclass
class Item:
    """A record that waits: a method of Board, the names it is for, and the call."""

    names: tuple[str, ...]
    step: int
    size: int  # bytes, about
    send: Callable[[RemoteBoard, frozenset[str]], None]  # with the names that the tracker does not have yet


class Sender:
    """A Board that never fails and never waits, except for GRACE seconds in `close`.

    A run that is resumed from an earlier step repeats steps that the tracker has already; these are not sent again.
    """

    def __init__(self, name: str, connect: Connect, run_dir: Path, say: Callable[[str], None]) -> None:
        self.name, self.connect, self.run_dir, self.say = name, connect, run_dir, say
        self.place = run_dir / "trackers" / f"{name}.json"
        self.sent = Sent.read(self.place)
        self.board: RemoteBoard | None = None
        self.waiting: deque[Item] = deque()
        self.size = self.num_lost = self.in_flight = 0
        self.warned = False
        self.changed, self.closing = threading.Condition(), threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"tracker {name}", daemon=True)
        self.thread.start()

    # ---- of Board ----

    def config(self, values: Mapping[str, Any], step: int) -> None:
        self._put(Item((), step, 10_000, lambda board, new: board.config(values, step)))

    def text(self, name: str, text: str, step: int) -> None:
        self._put(Item((name,), step, len(text), lambda board, new: board.text(name, text, step)))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        def send(board: RemoteBoard, new: frozenset[str]) -> None:
            board.scalars({name: value for name, value in values.items() if name in new}, step)

        self._put(Item(tuple(values), step, 100 * len(values), send))

    def picture(self, name: str, png: bytes, size: tuple[int, int], step: int) -> None:
        self._put(Item((name,), step, len(png), lambda board, new: board.picture(name, png, size, step)))

    def audio(self, name: str, wav: bytes, sample_rate: int, num_samples: int, step: int) -> None:
        def send(board: RemoteBoard, new: frozenset[str]) -> None:
            board.audio(name, wav, sample_rate, num_samples, step)

        self._put(Item((name,), step, len(wav), send))

    def close(self) -> None:
        """Send what waits, for at most GRACE seconds, and end the run of the tracker."""
        with self.changed:
            self.closing.set()
            self.changed.notify()
        self.thread.join(GRACE)
        with self.changed:
            num_lost = self.num_lost + len(self.waiting) + self.in_flight
        if num_lost:
            self.say(
                f"warning: tracker {self.name}: {counted(num_lost, 'record')} could not be sent; log.jsonl has all"
            )

    # ---- the thread ----

    def _put(self, item: Item) -> None:
        with self.changed:
            self.waiting.append(item)
            self.size += item.size
            while self.size > MAX_WAITING and len(self.waiting) > 1:
                self.size -= self.waiting.popleft().size
                self.num_lost += 1
            self.changed.notify()

    def _run(self) -> None:
        while (item := self._next()) is not None:
            if not self._try_hard(item):
                if self.closing.is_set():
                    return
                self.num_lost += 1
        if self.board is not None:
            self._try(self.board.close)

    def _next(self) -> Item | None:
        """The oldest record, once there is one; None at the end of the run."""
        with self.changed:
            self.in_flight = 0
            self.changed.wait_for(lambda: bool(self.waiting) or self.closing.is_set())
            if not self.waiting:
                return None
            self.in_flight = 1
            item = self.waiting.popleft()
            self.size -= item.size
            return item

    def _try_hard(self, item: Item) -> bool:
        for pause in (*PAUSES, 0):
            is_last = self.closing.is_set()  # no time is left for pauses
            if self._try(lambda: self._send(item)):
                return True
            if is_last:
                break
            self.closing.wait(pause)
        return False

    def _try(self, action: Callable[[], None]) -> bool:
        """Whether `action` succeeds. The first failure of the run is a warning."""
        try:
            action()
        except Exception as error:  # of many kinds: each tracker and its network has its own
            if not self.warned:
                self.warned = True
                text = f"{type(error).__name__}: {first_line(error)}"
                self.say(f"warning: tracker {self.name}: not reached ({text}); the run goes on, and tries again")
            return False
        return True

    def _send(self, item: Item) -> None:
        if self.board is None:
            board = self.connect(self.run_dir, self.sent.run)
            if board.run != self.sent.run:
                self.sent = Sent(board.run)
            self.board = board
            self._remember()
            self.say(f"tracker {self.name}: {board.where}")
        new = frozenset(name for name in item.names if self.sent.steps.get(name, -1) < item.step)
        if item.names and not new:
            return
        before = {name: self.sent.steps[name] for name in new if name in self.sent.steps}
        # Noted first: a crash between the two loses a record, instead of sending it twice.
        self.sent.steps.update(dict.fromkeys(new, item.step))
        self._remember()
        try:
            item.send(self.board, new)
        except BaseException:
            for name in new:
                del self.sent.steps[name]
            self.sent.steps.update(before)
            raise

    def _remember(self) -> None:
        text = json.dumps({"run": self.sent.run, "steps": self.sent.steps})
        self.place.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.place, text)
