"""Train Tacotron 2 or WaveGlow.

    python train.py model=tacotron2 data=ljspeech data.root=DIR run_dir=runs/t2
    torchrun --nproc-per-node 8 train.py model=waveglow data=ljspeech data.root=DIR run_dir=runs/wg

If the run directory holds checkpoints, the run continues from the newest one.
`python train.py model=waveglow --help` also explains the options of a model and of its training.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from common.help import show_help
    from common.threads import before_torch

    show_help("train", __doc__)
    before_torch()

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from common.checkpoint.checkpoint import Progress
from common.config import TrainConfig
from common.data.dataset import ClipDataset, RunData
from common.distributed.heartbeat import Heartbeat
from common.distributed.ranks import Ranks, barrier, start_ranks, stop_ranks
from common.entry import hydra_entry
from common.errors import UserError, did_you_mean
from common.files import make_directory
from common.lock import locked
from common.ops.precision import set_tf32
from common.schema import from_dict
from common.tracking.tracker import Tracker
from common.training.adversary import Adversary
from common.training.ema import MovingAverage
from common.training.resume import open_run_dir, remove_earlier_run, resume_or_initialize
from common.training.state import TrainingState
from common.training.step import OptimizerStep
from common.training.task import Task
from common.training.trainer import Trainer
from tacotron2.task import tacotron2_task
from waveglow.task import waveglow_task

PATIENCE = 5.0  # seconds: after a restart the previous run may still be ending
TASKS: dict[str, Callable[[TrainConfig], Task]] = {"tacotron2": tacotron2_task, "waveglow": waveglow_task}


def build_task(config: TrainConfig) -> Task:
    """The task that `model.name` selects."""
    name = config.model.get("name")
    if name not in TASKS:
        raise UserError(f"model.name={name!r} is unknown{did_you_mean(str(name), TASKS)}")
    return TASKS[name](config)


def with_judge(task: Task, config: TrainConfig, val: ClipDataset, ranks: Ranks) -> Task:
    """The task with a judge of the audio of its validations, if trainer.judge asks for one; rank 0 judges."""
    if not (config.trainer.judge and ranks.is_main):
        return task
    from evaluation.validation import ValidationJudge, waveglow_vocoder  # slow to import

    judge, path = ValidationJudge(config, val.clips), config.task.get("judge_waveglow")
    if path is None or task.report_with is None:
        return replace(task, judge=judge)
    vocoder = waveglow_vocoder(path, config.audio, ranks.device, config.seed)
    return replace(task, judge=judge, report=task.report_with(vocoder))


def build_trainer(task: Task, config: TrainConfig, ranks: Ranks, heartbeat: Heartbeat) -> Trainer:
    """Build all parts of a run. OptimizerStep (common/training/step.py) runs forward pass, loss and backward pass."""
    options, device = config.trainer, ranks.device
    set_tf32(options.tf32)
    datasets = task.datasets()
    task = with_judge(task.knowing(datasets[0]), config, datasets[1], ranks)
    data = RunData(datasets, task.collate, config, ranks)
    heartbeat.at("its start, after the data")
    torch.manual_seed(config.seed)  # the same initial weights on all ranks
    model = task.build_model().to(device)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
    )
    state = TrainingState(
        model=model,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(device.type, enabled=options.precision == "fp16"),
        average=MovingAverage(model, options.ema_decay),
        generator=torch.Generator(device).manual_seed(config.seed + ranks.rank),  # different dropout on each rank
        progress=Progress(data=data.identity),
        adversary=Adversary.of(task.discriminator().to(device)) if task.discriminator else None,
    )
    run_dir = open_run_dir(config)
    note = resume_or_initialize(state, task, config, ranks)
    if options.fresh and ranks.is_main:
        remove_earlier_run(run_dir)
    barrier()
    rate, step_done = config.audio.sample_rate, state.progress.step
    tracker = Tracker(run_dir, rate, step_done, ranks.is_main, options.progress, config.trackers)
    if note:
        tracker.message(note)
    heartbeat.at("its start, after the weights")
    step = OptimizerStep(task.objective, state, options, ranks)
    return Trainer(task, config, data, state, step, tracker, ranks, heartbeat)


def lock_run(run_dir: Path) -> AbstractContextManager[None]:
    """Allow one run at a time in its directory, which is made if necessary."""
    make_directory(run_dir, "run_dir")
    return locked(run_dir, "run_dir", PATIENCE)


@hydra_entry("train")
def main(values: dict[str, Any]) -> None:
    config = from_dict(TrainConfig, values)
    task = build_task(config)
    minutes = config.trainer.timeout_minutes
    ranks = start_ranks(config.trainer.device, minutes)
    try:
        lock = lock_run(Path(config.run_dir)) if ranks.is_main else nullcontext()
        with lock, Heartbeat(ranks, minutes) as heartbeat:
            status = build_trainer(task, config, ranks, heartbeat).fit()
    finally:
        stop_ranks()
    if status:  # it tells a scheduler to restart the run
        sys.exit(status)


if __name__ == "__main__":
    main()
