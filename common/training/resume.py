"""Chooses where a run starts: from its newest checkpoint, from the weights of another one, or from random weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from common.checkpoint import files
from common.checkpoint.initialize import Target, initialize
from common.config import TrainConfig
from common.distributed.ranks import Ranks, barrier, from_main
from common.files import make_directory
from common.training.state import TrainingState
from common.training.task import Task


def open_run_dir(config: TrainConfig, ranks: Ranks) -> Path:
    """Prepare the run directory and return it. With trainer.fresh, remove the files of an earlier run."""
    run_dir = Path(config.run_dir)
    make_directory(run_dir / "checkpoints", "run_dir")
    if config.trainer.fresh and ranks.is_main:
        for path in (run_dir / "checkpoints").glob("*.pt"):
            path.unlink()
        for name in ("samples", "tensorboard"):
            shutil.rmtree(run_dir / name, ignore_errors=True)
        (run_dir / "log.jsonl").unlink(missing_ok=True)
    barrier()
    return run_dir


def resume_or_initialize(state: TrainingState, task: Task, config: TrainConfig, ranks: Ranks) -> str:
    """Restore the newest checkpoint of the run directory, or else load init_from if it is set.

    Return a note on what was loaded.
    """
    directory = Path(config.run_dir) / "checkpoints"
    path = from_main(files.newest(directory) if ranks.is_main else None)
    if path is not None:
        state.restore(path, task, config, ranks)
        note = f"resumed from {path} at step {state.progress.step}"
        ignored = f"\ninit_from={config.init_from} is ignored: it applies only to a run_dir without checkpoints"
        return note + ignored if config.init_from else note
    if config.init_from is None:
        return ""
    target = Target(state.model, task.spec, task.model_config, config.audio, task.text)
    note = initialize(target, config.init_from, config.warm_start)
    state.average.load({})  # starts from these weights
    return note
