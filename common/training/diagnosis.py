"""The error messages for training that makes no progress."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from common.checkpoint import files
from common.checkpoint.checkpoint import Progress
from common.data.filelist import Clip
from common.errors import UserError
from common.training.health import MAX_BAD_STEPS, Health

MAX_NAMED = 8  # clips that the message names; it counts the rest


def check_steps(progress: Progress, clips: Sequence[Clip], loss: float, health: Health, checkpoints: Path) -> None:
    """Raise a UserError after too many bad steps. The last one was on `clips`, the latest line had `loss`."""
    if progress.bad_steps > MAX_BAD_STEPS:
        raise _bad_steps(progress, clips, health, checkpoints)
    if health.bad_steps > MAX_BAD_STEPS:
        raise divergence(loss, health, checkpoints)


def _bad_steps(progress: Progress, clips: Sequence[Clip], health: Health, checkpoints: Path) -> UserError:
    """The error after too many steps without a finite gradient."""
    rows = [clip.where for clip in clips]
    listed = ", ".join(rows[:MAX_NAMED]) + (f" and {len(rows) - MAX_NAMED} more" if len(rows) > MAX_NAMED else "")
    return UserError(
        f"{progress.bad_steps} steps in a row without a finite gradient; the last one, step {progress.step}, was on "
        f"the clips {listed}. If it is always these clips, correct or remove their rows (scripts/check_dataset.py "
        f"checks all rows). {_cure(health, checkpoints)}"
    )


def divergence(loss: float, health: Health, checkpoints: Path) -> UserError:
    """The error after the loss has become `loss` for too long."""
    usual = "" if health.usual is None else f", and was {health.usual:.3g} before"
    cure = _cure(health, checkpoints)
    return UserError(f"the loss has exploded: it is {loss:.3g} at step {health.step}{usual}. {cure}")


def _cure(health: Health, checkpoints: Path) -> str:
    """How to go on from the newest checkpoint that is known to be good."""
    lower = (
        "a lower trainer.learning_rate (or set trainer.grad_clip_norm, or use trainer.precision=bf16 or fp32 if it "
        "is fp16)"
    )
    good = newest_good(checkpoints, health.trusted)
    if good is None:
        return f"Start again in a new run_dir with {lower}; no good checkpoint has been saved"
    return f"Otherwise go on from the newest good checkpoint, in a new run_dir, with {lower}: init_from={good}"


def newest_good(checkpoints: Path, trusted: int) -> Path | None:
    """The newest checkpoint of a step up to `trusted` whose weights, averages and buffers are finite."""
    for path in reversed(files.all_steps(checkpoints)):
        if files.step_of(path) > trusted:
            continue
        try:
            checkpoint = files.load(path)
        except UserError:
            continue
        tensors = [*checkpoint.state_dict.values(), *checkpoint.average.values()]
        if all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
            return path
    return None
