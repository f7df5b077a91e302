"""How long to train a voice from the bundled one, and how good it gets: from the amount of speech."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

RATE_STEPS = 16  # of a run that finds out how long a step takes
TACOTRON2_SHARE = 2 / 3  # of the minutes for both models


class Known(NamedTuple):
    """A warm start that was measured (EXPERIMENTS.md), without its validation clips."""

    minutes: float  # of speech
    tacotron2_steps: int
    waveglow_steps: int
    wer: float  # %, of new sentences


STEP_SECONDS = {"tacotron2_small": 2.0, "waveglow_small": 0.8}  # on 2 cores, until a run has found out

# With a fifth of the base's weights; the second had transcripts. The words wrong are the mean of two voices each, one
# from the present base and one from the base before. With fewer steps, the old voice is still heard; more were not
# measured from this base.
KNOWN = (Known(4.7, 349, 588, 5.2), Known(36.6, 959, 1020, 4.6))


@dataclass(frozen=True)
class Recipe:
    """What the training of one model depends on."""

    learning_rate: float
    factors: tuple[float, ...] = (0.4, 0.12)  # of the learning rate ...
    starts: tuple[float, ...] = (0.6, 0.85)  # ... from these parts of the steps on
    adversary: float | None = None  # the part of the steps from which a discriminator takes part


RECIPES = {
    "tacotron2_small": Recipe(1e-3, adversary=0.6),
    "waveglow_small": Recipe(5e-4),
}


def wanted_steps(model: str, speech_minutes: float) -> int:
    """The steps for so much speech, between and beyond the measured ones in proportion to a power of it."""
    low, high = KNOWN
    few, many = (row.tacotron2_steps if model == "tacotron2_small" else row.waveglow_steps for row in (low, high))
    power = math.log(many / few) / math.log(high.minutes / low.minutes)
    return round(few * float((max(speech_minutes, 1.0) / low.minutes) ** power))


def expected_wer(speech_minutes: float) -> float:
    """% of the words of new sentences that Whisper gets wrong, of a voice from so much speech."""
    minutes, wer = zip(*((row.minutes, row.wer) for row in KNOWN), strict=True)
    return float(np.interp(math.log(max(speech_minutes, 1.0)), np.log(minutes), wer))


def share(model: str, minutes: float) -> float:
    """The part for one model of the minutes for both."""
    return minutes * (TACOTRON2_SHARE if model == "tacotron2_small" else 1 - TACOTRON2_SHARE)


def planned_steps(model: str, speech_minutes: float, step_seconds: float, minutes: float) -> int:
    """The steps that the speech needs, or as many as fit into `minutes`."""
    return max(RATE_STEPS, min(wanted_steps(model, speech_minutes), round(60 * minutes / step_seconds)))


def schedule(model: str, steps: int) -> list[str]:
    """The options of train.py for a run of `steps`."""
    recipe = RECIPES[model]
    starts = [round(start * steps) for start in recipe.starts]
    adversary = []
    if recipe.adversary is not None:
        adversary = ["task.adversary_weight=0.5", f"task.adversary_from_step={round(recipe.adversary * steps)}"]
    return [
        f"trainer.learning_rate={recipe.learning_rate:g}",
        f"trainer.max_steps={steps}",
        f"trainer.epochs={steps}",  # more than there are: max_steps ends it
        "trainer.anneal_epochs=[]",
        f"trainer.anneal_steps={starts}".replace(" ", ""),
        f"trainer.anneal_factors={list(recipe.factors)}".replace(" ", ""),
        *adversary,
    ]
