"""Where a run is shown beside the console and log.jsonl: TensorBoard, and the trackers of other projects.

TensorBoard is always installed. The others are optional packages, imported only if the config names them.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from common.config import TrackerName
from common.errors import UserError

MODULES: dict[TrackerName, str] = {  # of the optional ones; each has a function `connect`
    "mlflow": "common.tracking.mlflow_board",
    "wandb": "common.tracking.wandb_board",
    "trackio": "common.tracking.trackio_board",
}
INSTALL = "pip install -e '.[trackers]'"
PROJECT = "tacotron2-waveglow"  # under which the trackers list the runs, unless their own variables name another one


class Board(Protocol):
    """Shows one run. A method raises an error if it cannot record its values."""

    def config(self, values: Mapping[str, Any], step: int) -> None:
        """The whole config, at each start of the run."""
        ...

    def text(self, name: str, text: str, step: int) -> None: ...

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def picture(self, name: str, png: bytes, size: tuple[int, int], step: int) -> None:
        """`png` is a PNG file of size (width, height)."""
        ...

    def audio(self, name: str, wav: bytes, sample_rate: int, num_samples: int, step: int) -> None:
        """`wav` is a WAV file of one channel."""
        ...

    def close(self) -> None: ...


class RemoteBoard(Board, Protocol):
    """A run of an optional tracker."""

    run: dict[str, str]  # identifies the run, so that a restart can continue it
    where: str  # what to open to see the run


Connect = Callable[[Path, dict[str, str]], RemoteBoard]  # (run directory, RemoteBoard.run of an earlier start, or {})


def connections(names: Sequence[TrackerName]) -> dict[str, Connect]:
    """How to connect to each optional tracker among `names`. Raises a UserError if a package is not installed."""
    found: dict[str, Connect] = {}
    for name in names:
        if name in MODULES:
            spec = importlib.util.find_spec(name)
            if spec is None or spec.origin is None:  # None: a folder of that name, in which the tracker keeps its runs
                raise UserError(f"trackers={list(names)}: {name} is not installed; run: {INSTALL}, or leave it out")
            try:
                found[name] = importlib.import_module(MODULES[name]).connect
            except ImportError as error:
                raise UserError(f"trackers={list(names)}: {name} does not load ({error}); run: {INSTALL}") from error
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as KEY.KEY -> value."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result
