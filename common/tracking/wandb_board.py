"""Weights & Biases. Its own variables apply: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline, WANDB_API_KEY."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from common.tracking.board import PROJECT, RemoteBoard


class WandbBoard:
    """Scalars, text, pictures and sounds are all values of the run's history."""

    def __init__(self, session: Any, run: dict[str, str]) -> None:
        self.session, self.run = session, run
        self.where = f"wandb sync {Path(session.dir).parent}" if session.offline else str(session.url)

    def config(self, values: Mapping[str, Any], step: int) -> None:
        self.session.config.update(dict(values), allow_val_change=True)

    def text(self, name: str, text: str, step: int) -> None:
        self.session.log({name: text}, step=step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.session.log(dict(values), step=step)

    def picture(self, name: str, png: bytes, size: tuple[int, int], step: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.png"
            path.write_bytes(png)
            self.session.log({name: wandb.Image(str(path))}, step=step)

    def audio(self, name: str, wav: bytes, sample_rate: int, num_samples: int, step: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.wav"
            path.write_bytes(wav)
            self.session.log({name: wandb.Audio(str(path), sample_rate=sample_rate)}, step=step)

    def close(self) -> None:
        self.session.finish()


def connect(run_dir: Path, earlier: dict[str, str]) -> RemoteBoard:
    """Continue the run `earlier`, or create one if it is {}."""
    run = earlier or {"id": secrets.token_hex(4)}
    session = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or PROJECT,
        name=run_dir.resolve().name,
        id=run["id"],
        resume="allow",
        dir=run_dir,
        settings=wandb.Settings(console="off", silent=True),  # the run's own output stays as it is
    )
    return WandbBoard(session, run)
