"""scripts/average_checkpoints.py: of one run, and of a base with what was trained from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from common.checkpoint import files
from common.checkpoint.checkpoint import Checkpoint
from tests.helpers.commands import Result, fails_with, run_here
from tests.helpers.golden import golden_path


def average(*arguments: object, expect: int = 0) -> Result:
    return run_here("scripts/average_checkpoints.py", *arguments, expect=expect)


@pytest.fixture
def base(tmp_path: Path, tacotron2_run: Path) -> Path:
    """A model that the run could have been trained from."""
    weights = files.load(files.find(tacotron2_run))
    moved = {key: value + 1 if value.is_floating_point() else value + 5 for key, value in weights.state_dict.items()}
    assert weights.text
    text = dataclasses.replace(weights.text, limit=3)
    settings = weights.model_config | {"prenet_dropout": 0.1}
    bare = Checkpoint(weights.model_name, settings, weights.audio, text, moved)
    files.save(tmp_path / "base.pt", bare)
    return tmp_path / "base.pt"


def test_the_mean_of_a_run(tacotron2_run: Path, tmp_path: Path) -> None:
    average(tmp_path / "mean.pt", tacotron2_run)
    mean = files.load(tmp_path / "mean.pt")
    steps = [files.load(path) for path in files.all_steps(tacotron2_run / "checkpoints")]
    assert steps
    for key, value in mean.state_dict.items():
        expected = sum((step.state_dict | step.average)[key].double() for step in steps) / len(steps)
        torch.testing.assert_close(value.double(), torch.as_tensor(expected), atol=1e-6, rtol=1e-6)
    assert mean.description() == steps[-1].description()
    assert (mean.optimizer, mean.progress, mean.adversary, mean.scaler) == (None, None, {}, {})


def test_shares_of_a_base_and_a_run(base: Path, tacotron2_run: Path, tmp_path: Path) -> None:
    """The run's own settings and counters stay."""
    average(tmp_path / "out.pt", base, tacotron2_run, "--shares", 0.25, 0.75)
    out, run = (files.load(path) for path in (tmp_path / "out.pt", files.find(tacotron2_run)))
    for key, value in (run.state_dict | run.average).items():
        before = run.state_dict[key]
        expected = 0.25 * (before + 1) + 0.75 * value if value.is_floating_point() else before
        torch.testing.assert_close(out.state_dict[key], expected, atol=1e-6, rtol=1e-6)
    assert out.description() == run.description()


def test_what_cannot_be_averaged_is_refused(
    base: Path, tacotron2_run: Path, waveglow_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.pt"
    for shares, reason in (
        ([0.5], "give one number for each IN, of which there are 2"),
        ([0.5, 0.6], "--shares 0.5 0.6: their sum is 1.1"),
        ([-1, 2], "give numbers from 0 on"),
        (["nan", 1], "their sum is nan"),
    ):
        fails_with(average(out, base, tacotron2_run, "--shares", *shares, expect=1), reason)
    fails_with(average(out, base, tacotron2_run, expect=1), "differ in their model_config and text")
    for other, reason in (
        (waveglow_run, "differ in their model "),
        (golden_path("dle_tacotron2.pt"), "in their sizes"),
    ):
        fails_with(average(out, base, other, "--shares", 0.5, 0.5, expect=1), reason)
    assert not out.exists()
