"""Train Tacotron 2 or WaveGlow.

    python train.py model=tacotron2 data=ljspeech data.root=DIR run_dir=runs/t2
    torchrun --nproc-per-node 8 train.py model=waveglow data=ljspeech data.root=DIR run_dir=runs/wg

A run directory that holds checkpoints is continued. All options: python train.py --cfg job
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

from common.config import TrainConfig, from_dict
from common.distributed import ranks as distributed
from common.distributed.heartbeat import Peers
from common.distributed.run_lock import run_lock
from common.entry import hydra_entry
from common.errors import UserError, did_you_mean
from common.training.task import Task
from common.training.trainer import Trainer
from tacotron2.task import Tacotron2Task
from waveglow.task import WaveGlowTask

TASKS: dict[str, type[Task]] = {task.name: task for task in (Tacotron2Task, WaveGlowTask)}


def build_task(config: TrainConfig) -> Task:
    """The task that `model.name` selects, with the rest of `model` as its model's config."""
    name = config.model.get("name")
    if name not in TASKS:
        raise UserError(f"model.name={name!r} is unknown{did_you_mean(str(name), TASKS)}")
    return TASKS[name](config)


@hydra_entry("train")
def main(values: dict[str, Any]) -> None:
    config: TrainConfig = from_dict(TrainConfig, values)
    task = build_task(config)
    minutes = config.trainer.timeout_minutes
    ranks = distributed.start(config.trainer.device, minutes)
    try:
        with run_lock(config.run_dir) if ranks.is_main else nullcontext(), Peers(ranks, minutes) as peers:
            stopped_by = Trainer(task, config, ranks, peers).fit()
    finally:
        distributed.stop()
    if stopped_by:  # a status that says so, so that a scheduler starts the run again
        sys.exit(128 + stopped_by)


if __name__ == "__main__":
    main()
