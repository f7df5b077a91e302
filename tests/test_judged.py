"""Validations are judged by ear: the best checkpoint and the end of a run follow the judges, the training does not.

Some of these tests take 5 to 10 seconds: each validation draws its pictures and synthesizes what is judged.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import soundfile
import torch

from common.checkpoint import files as checkpoints
from common.training.task import Speech, Task, Verdict
from common.training.trainer import Trainer
from evaluation.page import page
from evaluation.validation import criterion
from tests.helpers import REPOSITORY
from tests.helpers.commands import run_here
from tests.helpers.runs import MODELS, TINY_TACOTRON2, assert_same_run, losses, make_trainer, read_log, train_command
from tests.test_train import torchrun

Judge = Callable[[Sequence[Speech]], Verdict]
EVERY_STEP = ("trainer.val_every_steps=1", "trainer.checkpoint_every_steps=1")
TWO_SENTENCES = "data.sentences=[One.,Two words.]"
VOICE = REPOSITORY / "demo/voice"


@pytest.fixture
def judged(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trainer]:
    """A function that makes a trainer whose validations are judged by the given function: quick, unlike the judges."""

    def make(judge: Judge, run_dir: Path, model: str, *overrides: str) -> Trainer:
        def with_judge(task: Task, *_: object) -> Task:
            return dataclasses.replace(task, judge=judge)

        monkeypatch.setattr("train.with_judge", with_judge)
        sentences = (TWO_SENTENCES,) if model == "tacotron2" else ()
        return make_trainer(corpus, run_dir, model, *sentences, "trainer.judge=true", *overrides)

    return make


def scripted(*criteria: float) -> Judge:
    """A judge that gives each validation the next of `criteria`."""
    left = iter(criteria)
    return lambda speech: Verdict(next(left), {"wer": 0.25})


def loudness(speech: Sequence[Speech]) -> Verdict:
    """A judge of the audio itself."""
    value = sum(float(one.audio.std()) for one in speech)
    return Verdict(value, {"mos": value})


def best_step(run_dir: Path) -> int:
    return checkpoints.load(run_dir / "checkpoints/best.pt").progress.step


def test_the_criterion() -> None:
    assert criterion(0.0, 5.0) == 0
    assert criterion(0.25, 3.0) == 0.75
    assert criterion(7.0, 1.0) == 2  # babble counts as no more than nothing understood
    assert criterion(None, 3.0) == 0.5


def test_the_best_has_the_lowest_criterion(judged: Callable[..., Trainer], tmp_path: Path) -> None:
    trainer = judged(scripted(0.5, 0.3, math.nan, 0.4), tmp_path, "waveglow", *EVERY_STEP, "trainer.max_steps=4")
    trainer.fit()
    assert best_step(tmp_path) == 2
    progress = trainer.state.progress
    assert (progress.best_loss, progress.best_step, progress.no_gain) == (0.3, 2, 2)
    rows = [row for row in read_log(tmp_path) if "val_loss" in row]
    assert [row["val_criterion"] for row in rows] == [0.5, 0.3, None, 0.4]
    assert all(row["val_wer"] == 0.25 and row["val_judge_time"] >= 0 for row in rows)
    report = page(tmp_path, [])
    assert "words not understood (Whisper)" in report
    assert "what the best checkpoint has least of" in report
    assert "naturalness" not in report  # this judge did not measure it


def test_what_is_judged_is_what_can_be_heard(
    judged: Callable[..., Trainer], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = list[Speech]()

    def judge(speech: Sequence[Speech]) -> Verdict:
        heard.extend(speech)
        return loudness(speech)

    for model, names in (("tacotron2", ("sentence_0", "sentence_1")), ("waveglow", ("copy_0",))):
        heard.clear()
        judged(judge, tmp_path / model, model, "trainer.max_steps=1").fit()
        for speech, name in zip(heard, names, strict=True):
            written, _ = soundfile.read(tmp_path / model / f"samples/{name}_00000001.wav", dtype="float32")
            assert speech.audio.clamp(-1, 1).numpy() == pytest.approx(written, abs=5e-5)
        if model == "tacotron2":
            assert [(speech.text, speech.clip) for speech in heard] == [("One.", None), ("Two words.", None)]
            assert "the judges hear data.sentences through Griffin-Lim" in capsys.readouterr().out
        else:
            row = (corpus / "filelists/val.txt").read_text().splitlines()[0]
            assert [(speech.text, speech.clip) for speech in heard] == [(row.split("|")[1], 0)]
            assert len(heard[0].audio) == pytest.approx(len(soundfile.read(corpus / row.split("|")[0])[0]), abs=256)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.slow
def test_judging_changes_nothing_that_is_trained(
    judged: Callable[..., Trainer], corpus: Path, tmp_path: Path, model: str
) -> None:
    options = ("trainer.max_steps=5", "trainer.val_every_steps=2")
    judged(loudness, tmp_path / "judged", model, *options).fit()
    make_trainer(corpus, tmp_path / "plain", model, *options).fit()
    assert losses(tmp_path / "judged") == losses(tmp_path / "plain")
    with_judge, without = (checkpoints.load(checkpoints.find(tmp_path / name)) for name in ("judged", "plain"))
    for name, weight in without.state_dict.items():
        assert torch.equal(weight, with_judge.state_dict[name]), name


@pytest.mark.fault(9)
@pytest.mark.slow
def test_resume_equals_no_interruption(judged: Callable[..., Trainer], tmp_path: Path) -> None:
    """The best validation and the number of those since then are part of it."""
    options = ("waveglow", "trainer.val_every_steps=1", "trainer.stop_after_no_gain=50")
    judged(loudness, tmp_path / "whole", *options, "trainer.max_steps=6").fit()
    judged(loudness, tmp_path / "halves", *options, "trainer.max_steps=3").fit()
    judged(loudness, tmp_path / "halves", *options, "trainer.max_steps=6").fit()
    assert_same_run(tmp_path / "whole", tmp_path / "halves")
    assert best_step(tmp_path / "whole") == best_step(tmp_path / "halves")
    progress = checkpoints.load(checkpoints.find(tmp_path / "whole")).progress
    assert progress.no_gain == 6 - progress.best_step


def test_a_run_without_gain_ends_and_says_how_to_go_on(
    judged: Callable[..., Trainer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("waveglow", *EVERY_STEP, "trainer.max_steps=9")
    trainer = judged(scripted(0.5, 0.3, 0.4, 0.3), tmp_path, *options, "trainer.stop_after_no_gain=2")
    assert trainer.fit() == 0  # as after max_minutes
    why = (
        "because 2 validations in a row brought no gain (trainer.stop_after_no_gain=2); the best is "
        "checkpoints/best.pt, of step 2; to train longer, raise the limit or set it to null"
    )
    assert f"finished at step 4 {why}" in capsys.readouterr().out
    assert judged(scripted(), tmp_path, *options, "trainer.stop_after_no_gain=2").fit() == 0
    assert f"nothing to do, {why}" in capsys.readouterr().out
    judged(scripted(0.9, 0.2, 0.9, 0.9, 0.9), tmp_path, *options, "trainer.stop_after_no_gain=4").fit()
    assert "finished at step 9; listen with" in capsys.readouterr().out
    assert best_step(tmp_path) == 6


def test_without_a_judge_the_loss_decides_when_to_end(corpus: Path, tmp_path: Path) -> None:
    """With so low a learning rate the weights stay as they are, and so does the loss."""
    options = ("trainer.learning_rate=1e-30", "trainer.stop_after_no_gain=2", "trainer.max_steps=9", *EVERY_STEP)
    trainer = make_trainer(corpus, tmp_path, "waveglow", *options)
    trainer.fit()
    assert trainer.state.progress.step == 3
    assert best_step(tmp_path) == 1


def test_a_failing_judge_is_a_warning(judged: Callable[..., Trainer], tmp_path: Path) -> None:
    """It neither makes a best checkpoint nor counts as a validation without a gain."""

    def judge(_: object) -> Verdict:
        raise ZeroDivisionError("no words")

    trainer = judged(judge, tmp_path, "waveglow", *EVERY_STEP, "trainer.max_steps=2", "trainer.stop_after_no_gain=1")
    trainer.fit()
    warnings = [row["warning"] for row in read_log(tmp_path) if "warning" in row]
    assert warnings == [f"the audio of step {s} could not be judged (ZeroDivisionError: no words)" for s in (1, 2)]
    assert not (tmp_path / "checkpoints/best.pt").exists()
    assert trainer.state.progress.no_gain == 0


def test_a_judge_that_joins_later_chooses_another_best(
    judged: Callable[..., Trainer], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_trainer(corpus, tmp_path, "waveglow", "trainer.max_steps=1").fit()
    judged(scripted(1.5), tmp_path, "waveglow", "trainer.max_steps=2").fit()
    assert "the best checkpoint is chosen anew" in capsys.readouterr().out
    assert best_step(tmp_path) == 2
    assert (tmp_path / "checkpoints/best_until_00000002.pt").exists()


def test_mistakes_are_named(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def message(*options: str) -> str:
        return run_here(*train_command(corpus, tmp_path / "run", TINY_TACOTRON2, *options), expect=1).stderr

    assert "task.judge_waveglow=x is only for trainer.judge=true" in message("task.judge_waveglow=x")
    assert "trainer.judge=true has nothing to judge: data.sentences=[]" in message("trainer.judge=true")
    assert "hears only English, and data.cleaners=basic_cleaners" in message(
        "trainer.judge=true", TWO_SENTENCES, "data.cleaners=basic_cleaners"
    )
    monkeypatch.setitem(sys.modules, "faster_whisper", None)  # as if it were not installed
    missing = message("trainer.judge=true", TWO_SENTENCES)
    assert "trainer.judge=true: evaluation needs the package faster_whisper" in missing
    assert "pip install -e '.[eval]'" in missing


# ---- with the judges ----


@pytest.mark.slow  # the judges take seconds to load, and listen to five validations
def test_the_judges_know_the_bundled_voice_and_change_no_loss(tmp_path: Path) -> None:
    """Two steps from the bundled Tacotron 2, with its recordings, heard through Griffin-Lim and through WaveGlow.

    The run with a break equals the one without, with the judges' numbers.
    """
    root, texts = REPOSITORY / "demo/unseen", "data.sentences=[The weather was bright and cold.,Please call again.]"
    lists = [f"data.{name}_filelist={root}/filelist.txt" for name in ("train", "val", "test")]
    data = ["data=ljspeech", f"data.root={root}", *lists, f"data.mel_dir={tmp_path}/mels", "data.convert_audio=true"]
    run_here("scripts/prepare_mels.py", *data, "num_processes=1")
    command = [
        "train.py", "model=tacotron2_small", *data, "data.cleaners=english_arpabet", "data.limit=4", texts,
        f"init_from={VOICE}/tacotron2.safetensors", "data.num_workers=0", "trainer.device=cpu",
        "trainer.learning_rate=1e-6", "trainer.log_every_steps=1", "trainer.val_every_steps=1",
        "trainer.dry_run=false",
    ]  # fmt: skip
    judge = ["trainer.judge=true", "trainer.stop_after_no_gain=9"]
    run_here(*command, f"run_dir={tmp_path}/plain", "trainer.max_steps=2")
    run_here(*command, f"run_dir={tmp_path}/whole", *judge, "trainer.max_steps=2")
    run_here(*command, f"run_dir={tmp_path}/halves", *judge, "trainer.max_steps=1")
    run_here(*command, f"run_dir={tmp_path}/halves", *judge, "trainer.max_steps=2")
    waveglow = [f"task.judge_waveglow={VOICE}/waveglow.safetensors", "trainer.max_steps=1"]
    run_here(*command, f"run_dir={tmp_path}/waveglow", *judge, *waveglow)
    assert losses(tmp_path / "whole") == losses(tmp_path / "plain")
    assert_same_run(tmp_path / "whole", tmp_path / "halves")
    griffin_lim, spoken = ([r for r in read_log(tmp_path / n) if "val_wer" in r] for n in ("whole", "waveglow"))
    for row in (*griffin_lim, *spoken):
        assert row["val_wer"] <= 0.3
        assert 0.75 < row["val_speaker"] < 1
        assert row["val_criterion"] == pytest.approx(row["val_wer"] + (5 - row["val_mos"]) / 4)
    assert spoken[0]["val_mos"] > griffin_lim[0]["val_mos"] + 0.5  # Griffin-Lim is heard as what it is


@pytest.mark.slow  # two processes, which each take seconds to start, and the judges
def test_all_ranks_follow_the_judges_of_one(corpus: Path, tmp_path: Path) -> None:
    command = train_command(
        corpus, tmp_path, MODELS["waveglow"], "trainer.judge=true", "trainer.max_steps=3", "trainer.batch_size=1",
        "trainer.val_every_steps=1", "trainer.stop_after_no_gain=1", "trainer.learning_rate=1e-30",
    )  # fmt: skip
    result = torchrun(2, *command)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "finished at step 2 because 1 validation in a row" in result.stdout
    assert best_step(tmp_path) == 1
