"""Trackio. Its own variables apply: TRACKIO_DIR, where it keeps runs, TRACKIO_SPACE_ID and TRACKIO_SERVER_URL."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trackio

from common.tracking.board import PROJECT, RemoteBoard


class TrackioBoard:
    """Scalars, text, pictures and sounds are all values of the run."""

    def __init__(self, session: Any, run: dict[str, str]) -> None:
        self.session, self.run, self.where = session, run, f"trackio show --project {PROJECT}"

    def config(self, values: Mapping[str, Any], step: int) -> None:
        self.text("config", f"```json\n{json.dumps(values, indent=2)}\n```", step)

    def text(self, name: str, text: str, step: int) -> None:
        self.session.log({name: trackio.Markdown(text)}, step=step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.session.log(dict(values), step=step)

    def picture(self, name: str, png: bytes, size: tuple[int, int], step: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.png"
            path.write_bytes(png)
            self.session.log({name: trackio.Image(str(path))}, step=step)

    def audio(self, name: str, wav: bytes, sample_rate: int, num_samples: int, step: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.wav"
            path.write_bytes(wav)
            self.session.log({name: trackio.Audio(str(path))}, step=step)

    def close(self) -> None:
        self.session.finish()


def connect(run_dir: Path, earlier: dict[str, str]) -> RemoteBoard:
    """Continue the run `earlier`, or create one if it is {}. Trackio knows runs by their names."""
    run = earlier or {"name": f"{run_dir.resolve().name}-{secrets.token_hex(3)}"}
    session = trackio.init(
        project=PROJECT, name=run["name"], resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False
    )
    return TrackioBoard(session, run)
