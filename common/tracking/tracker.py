"""Records the numbers, pictures and sounds of a run: on the console, in log.jsonl and samples/, and on its boards."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from tqdm import tqdm

from common.audio import wav_bytes
from common.config import TrackerName
from common.errors import UserError, first_line
from common.files import replacing
from common.tracking.board import Board, connections
from common.tracking.jsonl import JsonLines
from common.tracking.sender import Sender

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BAR_FORMAT = "{n_fmt}/{total_fmt} {elapsed}<{remaining}{postfix}"  # leaves room for the numbers in 80 columns


class Tracker:
    """The record of a run, kept by rank 0. On the other ranks (`active=False`) every method is a no-op.

    The record is less than the run: what cannot be written is a warning, and a directory that is gone is made again.
    Raises a UserError if the package of one of `trackers` is not installed.
    """

    def __init__(
        self,
        run_dir: Path,
        sample_rate: int,
        step: int = 0,
        active: bool = True,
        progress: bool = True,
        trackers: Sequence[TrackerName] = ("tensorboard",),
    ) -> None:
        self.active = active
        self.sample_rate = sample_rate
        self.samples = run_dir / "samples"
        self.failing: set[str] = set()  # what could not be written the last time
        self.bar: tqdm[Any] | None = None
        self.show_bar = progress and sys.stderr.isatty()
        self.boards: dict[Path, Board] = {}  # by the file in the run directory that each writes
        if active:
            connect = connections(trackers)
            self.log = JsonLines(run_dir / "log.jsonl")
            self.samples.mkdir(parents=True, exist_ok=True)
            if "tensorboard" in trackers:
                from common.tracking.event_files import EventFile  # slow to import

                file = EventFile(run_dir / "tensorboard", step + 1)  # without the steps that a crash undid
                self.boards[file.place] = file
            for name, connection in connect.items():
                sender = Sender(name, connection, run_dir, self.message)
                self.boards[sender.place] = sender

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """Warn if the block cannot write, once until it can again."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield
            self.failing.discard(path.name)
        except (OSError, UserError) as error:
            if path.name not in self.failing:
                self.message(f"warning: {path}: not written ({first_line(error)}); the run goes on")
            self.failing.add(path.name)

    def _show(self, on: Callable[[Board], None]) -> None:
        for place, board in self.boards.items():
            with self._writing(place):
                on(board)

    def start(self, step: int, total_steps: int | None) -> None:
        """Show the progress bar, at `step` of `total_steps`, if the output is a terminal."""
        if self.active and self.show_bar:
            self.bar = tqdm(total=total_steps, initial=step, dynamic_ncols=True, smoothing=0.1, bar_format=BAR_FORMAT)

    def advance(self) -> None:
        if self.bar:
            try:
                self.bar.update()
            except OSError:  # the terminal was closed
                self.bar = None

    def message(self, text: str) -> None:
        if self.active:
            try:
                if self.bar:
                    self.bar.write(text)
                else:
                    print(text, flush=True)
            except OSError:  # the terminal or the pipe was closed; the run continues without it
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open for the whole run)

    def warning(self, text: str, step: int) -> None:
        self.message(f"warning: {text}")
        self.record(step=step, warning=text)
        self._show(lambda board: board.text("warning", text, step))

    def config(self, step: int, values: Mapping[str, Any]) -> None:
        """Record the whole config, at the start of a run or of its continuation."""
        self.record(step=step, config=values)
        self._show(lambda board: board.config(values, step))

    def record(self, **values: Any) -> None:
        """Write a line to log.jsonl that is not a measurement."""
        if self.active:
            with self._writing(self.log.path):
                self.log.write(**values)

    def scalars(self, step: int, epoch: int, values: Mapping[str, float], line: str = "") -> None:
        """Log `values`. The console shows `line`, beside the progress bar or as a line of its own."""
        if not self.active:
            return
        self.record(step=step, epoch=epoch, **values)
        self._show(lambda board: board.scalars(values, step))
        if line and self.bar:
            self.bar.set_postfix_str(line)
        elif line:
            self.message(f"step {step:>7,} epoch {epoch:>4} {line}")

    def figure(self, name: str, figure: Figure, step: int) -> None:
        if self.active:
            png = io.BytesIO()
            figure.savefig(png, dpi=100)
            self._keep(f"{name}_{step:08d}.png", png.getvalue())
            width, height = (round(100 * inches) for inches in figure.get_size_inches())
            self._show(lambda board: board.picture(name, png.getvalue(), (width, height), step))

    def audio(self, name: str, audio: Tensor, step: int) -> None:
        """audio (N)"""
        if self.active:
            wav = wav_bytes(audio, self.sample_rate)
            self._keep(f"{name}_{step:08d}.wav", wav)
            self._show(lambda board: board.audio(name, wav, self.sample_rate, len(audio), step))

    def _keep(self, name: str, content: bytes) -> None:
        path = self.samples / name
        with self._writing(path), replacing(path, durable=False) as temporary:
            temporary.write_bytes(content)

    def close(self) -> None:
        for board in self.boards.values():
            board.close()
        if self.bar:
            self.bar.close()
