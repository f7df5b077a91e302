"""The error message for training that makes no progress because no gradient is finite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.checkpoint import files
from common.checkpoint.checkpoint import Progress
from common.data.filelist import Clip

MAX_BAD_STEPS = 20  # consecutive; the loss scaler needs some to find its scale
MAX_NAMED = 8  # clips that the message names; it counts the rest


def diagnose_bad_steps(progress: Progress, clips: Sequence[Clip], checkpoints: Path) -> str:
    """The message after too many steps without a finite gradient, the last of them on `clips`."""
    rows = [clip.where for clip in clips]
    listed = ", ".join(rows[:MAX_NAMED]) + (f" and {len(rows) - MAX_NAMED} more" if len(rows) > MAX_NAMED else "")
    newest = files.all_steps(checkpoints)
    good = str(newest[-1]) if newest else "there is none yet"
    return (
        f"{progress.bad_steps} steps in a row without a finite gradient; the last one, step {progress.step}, was on "
        f"the clips {listed}. If it is always these clips, correct or remove their rows (scripts/check_dataset.py "
        "checks all rows). Otherwise lower trainer.learning_rate, set trainer.grad_clip_norm, or use "
        f"trainer.precision=bf16 or fp32. The newest checkpoint: {good}"
    )
