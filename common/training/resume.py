"""Chooses where a run starts: from its newest checkpoint, from the weights of another one, or from random weights."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

from common.checkpoint import files
from common.checkpoint.initialize import Target, initialize
from common.config import TrainConfig
from common.distributed.ranks import Ranks, from_main
from common.errors import UserError
from common.files import make_directory
from common.training.state import TrainingState
from common.training.task import Task

DEBUG_DIRECTORY = ("runs", "debug")  # only below it are runs removed


def open_run_dir(config: TrainConfig) -> Path:
    """Make the run directory and return it. Raise a UserError if trainer.fresh would remove a run that is not one of
    debugging."""
    run_dir = Path(config.run_dir)
    make_directory(run_dir / "checkpoints", "run_dir")
    parts = run_dir.resolve().parts
    if config.trainer.fresh and _of_a_run(run_dir) and DEBUG_DIRECTORY not in itertools.pairwise(parts[:-1]):
        raise UserError(
            f"run_dir={run_dir} holds a run, which trainer.fresh=true (a part of debug=...) would remove; it removes "
            f"only runs below {'/'.join(DEBUG_DIRECTORY)}: leave run_dir out, or choose an empty one"
        )
    return run_dir


def remove_earlier_run(run_dir: Path) -> None:
    """Remove the files of the run in `run_dir`, and nothing else."""
    for path in _of_a_run(run_dir):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _of_a_run(run_dir: Path) -> list[Path]:
    others = [run_dir / name for name in ("samples", "tensorboard", "log.jsonl", "trackers", "mlruns", "wandb")]
    return [*(run_dir / "checkpoints").glob("*.pt"), *(path for path in others if path.exists())]


def resume_or_initialize(state: TrainingState, task: Task, config: TrainConfig, ranks: Ranks) -> str:
    """Restore the newest checkpoint of the run directory, or else load init_from if it is set.

    Return a note on what was loaded.
    """
    directory = Path(config.run_dir) / "checkpoints"
    path = from_main(files.newest(directory) if ranks.is_main and not config.trainer.fresh else None)
    if path is not None:
        state.restore(path, task, config, ranks)
        note = f"resumed from {path} at step {state.progress.step}"
        ignored = f"; init_from={config.init_from} was only for the start of the run"
        return note + ignored if config.init_from else note
    if config.init_from is None:
        return ""
    target = Target(state.model, task.spec, task.model_config, config.audio, task.text)
    note = initialize(target, config.init_from, config.warm_start)
    state.average.load({})  # starts from these weights
    return note
