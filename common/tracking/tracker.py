"""Records the numbers, pictures and sounds of a run: on the console, in log.jsonl, TensorBoard and samples/."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from tqdm import tqdm

from common.audio import save_audio
from common.tracking.jsonl import JsonLines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BAR_FORMAT = "{n_fmt}/{total_fmt} {elapsed}<{remaining}{postfix}"  # leaves room for the numbers in 80 columns


class Tracker:
    """The record of a run, kept by rank 0. On the other ranks (`active=False`) every method is a no-op."""

    def __init__(
        self, run_dir: Path, sample_rate: int, step: int = 0, active: bool = True, progress: bool = True
    ) -> None:
        self.active = active
        self.sample_rate = sample_rate
        self.samples = run_dir / "samples"
        self.bar: tqdm[Any] | None = None
        self.show_bar = progress and sys.stderr.isatty()
        if active:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self.log = JsonLines(run_dir / "log.jsonl")
            # purge_step drops the steps that a crash undid.
            self.board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1)
            self.samples.mkdir(parents=True, exist_ok=True)

    def start(self, step: int, total_steps: int | None) -> None:
        """Show the progress bar, at `step` of `total_steps`, if the output is a terminal."""
        if self.active and self.show_bar:
            self.bar = tqdm(total=total_steps, initial=step, dynamic_ncols=True, smoothing=0.1, bar_format=BAR_FORMAT)

    def advance(self) -> None:
        if self.bar:
            self.bar.update()

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

    def record(self, **values: Any) -> None:
        """Write a line to log.jsonl that is not a measurement."""
        if self.active:
            self.log.write(**values)

    def scalars(self, step: int, epoch: int, values: Mapping[str, float], line: str = "") -> None:
        """Log `values`. The console shows `line`, beside the progress bar or as a line of its own."""
        if not self.active:
            return
        self.log.write(step=step, epoch=epoch, **values)
        for key, value in values.items():
            self.board.add_scalar(key, value, step)
        if line and self.bar:
            self.bar.set_postfix_str(line)
        elif line:
            self.message(f"step {step:>7,} epoch {epoch:>4} {line}")

    def figure(self, name: str, figure: Figure, step: int) -> None:
        if self.active:
            figure.savefig(self.samples / f"{name}_{step:08d}.png", dpi=100)
            self.board.add_figure(name, figure, step, close=False)

    def audio(self, name: str, audio: Tensor, step: int) -> None:
        """audio (N)"""
        if self.active:
            audio = audio.detach().float().cpu().clamp(-1, 1)
            save_audio(self.samples / f"{name}_{step:08d}.wav", audio, self.sample_rate)
            self.board.add_audio(name, audio.unsqueeze(0), step, self.sample_rate)

    def close(self) -> None:
        if self.active:
            if self.bar:
                self.bar.close()
            self.log.close()
            self.board.close()
