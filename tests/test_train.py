"""Training learns, resumes exactly, runs on two ranks, skips non-finite steps, and refuses bad input early."""

import dataclasses
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.checkpoint import files as checkpoints
from common.config import TrainConfig
from common.data.batching import BatchSize
from common.errors import UserError
from common.schema import from_dict
from common.training.health import MAX_BAD_STEPS
from common.training.step import OptimizerStep
from common.training.task import Loss
from inference import load_model
from tacotron2.data import TextMelDataset
from tests.helpers import REPOSITORY
from tests.helpers.commands import fails_with, run_here, run_process
from tests.helpers.runs import (
    MODELS,
    TINY_TACOTRON2,
    TINY_WAVEGLOW,
    assert_same_run,
    checkpoint_of,
    losses,
    make_trainer,
    read_log,
    state_is_finite,
    train_command,
    with_objective,
)
from train import build_task


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("waveglow_small", ()),
        *(pytest.param(model, (), marks=pytest.mark.slow) for model in ("tacotron2", "waveglow")),
        pytest.param("tacotron2", ("task.adversary_weight=1", "task.adversary_from_step=2"), marks=pytest.mark.slow),
        pytest.param("waveglow", ("trainer.accumulation_steps=2", "data.num_workers=1"), marks=pytest.mark.slow),
    ],
)
@pytest.mark.fault(9)
def test_resume_equals_no_interruption(corpus: Path, tmp_path: Path, model: str, options: tuple[str, ...]) -> None:
    """7 clips make 4 batches per epoch, so 3 steps of one or two batches each end in mid-epoch."""
    common = (*options, "trainer.val_every_steps=2")
    make_trainer(corpus, tmp_path / "whole", model, *common, "trainer.max_steps=7").fit()
    make_trainer(corpus, tmp_path / "halves", model, *common, "trainer.max_steps=3").fit()
    make_trainer(corpus, tmp_path / "halves", model, *common, "trainer.max_steps=7").fit()
    assert_same_run(tmp_path / "whole", tmp_path / "halves")
    assert losses(tmp_path / "whole") == losses(tmp_path / "halves")


@pytest.mark.fault(9, 15)
def test_resume_in_fp16(corpus: Path, tmp_path: Path) -> None:
    """The state of the loss scaler survives a resume."""
    fp16 = ("trainer.precision=fp16", "trainer.max_steps=6")
    make_trainer(corpus, tmp_path / "whole", "waveglow", *fp16).fit()
    make_trainer(corpus, tmp_path / "halves", "waveglow", fp16[0], "trainer.max_steps=3").fit()
    make_trainer(corpus, tmp_path / "halves", "waveglow", *fp16).fit()
    assert_same_run(tmp_path / "whole", tmp_path / "halves")
    assert all("loss_scale" in row for row in read_log(tmp_path / "whole") if "train_loss" in row)


@pytest.mark.fault(9)
def test_same_seed_same_run(corpus: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_trainer(corpus, tmp_path / name, "tacotron2", "trainer.max_steps=2", f"seed={seed}").fit()
    assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(tmp_path / "c")


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_one_batch_overfits(corpus: Path, tmp_path: Path, model: str) -> None:
    """On two clips the loss falls much lower than it could on a corpus."""
    trainer = make_trainer(
        corpus, tmp_path, model, "data.limit=2", "trainer.epochs=70", "trainer.learning_rate=0.01",
        "trainer.val_every_steps=1000", "trainer.checkpoint_every_steps=1000", "trainer.grad_clip_norm=1.0",
        *(["task.mel_band_difference_weight=0"] if model == "tacotron2" else []),
    )  # fmt: skip
    trainer.fit()
    curve = losses(tmp_path)
    if model == "tacotron2":
        assert curve[70] < 0.08 * curve[1]
    else:
        assert curve[70] < curve[1] - 1.5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.slow
def test_mixed_precision_follows_fp32(corpus: Path, tmp_path: Path, model: str, precision: str) -> None:
    options = ["trainer.max_steps=3", *(["task.adversary_weight=1"] if model == "tacotron2" else [])]
    for name in ("fp32", precision):
        make_trainer(corpus, tmp_path / name, model, f"trainer.precision={name}", *options).fit()
    exact, mixed = losses(tmp_path / "fp32"), losses(tmp_path / precision)
    # bf16 has 8 bits of precision; the first fp16 steps may be skipped while the loss scale is still too large
    assert mixed[1] == pytest.approx(exact[1], rel=0.02, abs=0.02)
    assert math.isfinite(mixed[3])


def test_accumulation_equals_the_larger_batch(corpus: Path, tmp_path: Path) -> None:
    """WaveGlow's loss is a mean over equal segments, so two batches of 1 clip give the gradient of one batch of 2."""
    one = make_trainer(corpus, tmp_path / "one", "waveglow", "trainer.batch_size=2")
    two = make_trainer(corpus, tmp_path / "two", "waveglow", "trainer.batch_size=1")
    items = [one.data.train[(i, 0)] for i in range(2)]
    meter = one.new_meter()
    one.step([one.task.collate(items)], meter)
    two.step([two.task.collate(items[:1]), two.task.collate(items[1:])], meter)
    for a, b in zip(one.state.model.parameters(), two.state.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4)


def test_gradients_are_clipped_and_logged(corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(corpus, tmp_path, "tacotron2", "trainer.grad_clip_norm=0.01", "trainer.max_steps=1")
    trainer.fit()
    norm = nn.utils.get_total_norm([p.grad for p in trainer.state.model.parameters() if p.grad is not None])
    assert norm == pytest.approx(0.01, rel=1e-3)
    assert next(row for row in read_log(tmp_path) if "grad_norm" in row)["grad_norm"] > 0.01


@pytest.mark.fault(14)
def test_bad_steps_leave_the_weights_unchanged(corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(corpus, tmp_path, "waveglow")
    batch = trainer.task.collate([trainer.data.train[(0, 0)]])
    bad = batch._replace(audio=batch.audio * float("nan"))
    before = {key: value.clone() for key, value in trainer.state.model.state_dict().items()}
    meter = trainer.new_meter()
    for _ in range(MAX_BAD_STEPS):
        trainer.step([bad], meter)
    assert meter.skipped == MAX_BAD_STEPS
    assert all(torch.equal(value, before[key]) for key, value in trainer.state.model.state_dict().items())
    assert int(trainer.step.bad_steps) == MAX_BAD_STEPS
    trainer.step([batch], meter)
    assert int(trainer.step.bad_steps) == 0


@pytest.mark.fault(14)
def test_a_run_of_bad_steps_names_the_clips_and_the_last_good_checkpoint(corpus: Path, tmp_path: Path) -> None:
    options = ("trainer.epochs=100", "trainer.checkpoint_every_steps=1", "trainer.val_every_steps=1000")
    trainer = make_trainer(corpus, tmp_path, "waveglow", *options)
    objective, used = trainer.task.objective, []

    class Failing:
        """The task's objective, with a NaN loss from the fourth call on."""

        part_names, advice = objective.part_names, objective.advice

        def __call__(self, *arguments: Any) -> Loss:
            result = objective(*arguments)
            used.append(1)
            return dataclasses.replace(result, loss=result.loss * float("nan")) if len(used) > 3 else result

    with_objective(trainer, Failing())
    with pytest.raises(UserError) as error:
        trainer.fit()
    assert len(used) == 3 + MAX_BAD_STEPS + 1  # one call is the dry run's
    assert f"{MAX_BAD_STEPS + 1} steps in a row without a finite gradient" in str(error.value)
    epoch, position = divmod(len(used) - 2, 4)
    clips = trainer.data.plan.batches(epoch, BatchSize(2), [])[position]
    assert ", ".join(trainer.data.train.clips[index].where for index in clips) in str(error.value)
    newest = checkpoints.all_steps(tmp_path / "checkpoints")[-1]
    assert "newest good checkpoint, in a new run_dir, with a lower trainer.learning_rate" in str(error.value)
    assert str(error.value).endswith(f"init_from={newest}")
    assert state_is_finite(tmp_path)


@pytest.mark.fault(14)
def test_a_bad_step_leaves_batch_norms_averages_alone(corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(corpus, tmp_path, "tacotron2")
    batch = trainer.task.collate([trainer.data.train[(0, 0)]])
    before = {key: value.clone() for key, value in trainer.state.model.state_dict().items()}
    trainer.step([batch._replace(mel=batch.mel * float("inf"))], trainer.new_meter())
    assert all(torch.equal(value, before[key]) for key, value in trainer.state.model.state_dict().items())
    trainer.step([batch], trainer.new_meter())
    assert not torch.equal(
        trainer.state.model.postnet.convolutions[0][1].running_mean, before["postnet.convolutions.0.1.running_mean"]
    )


@pytest.mark.fault(25)
@pytest.mark.parametrize(("model", "rate"), [("tacotron2", "1e10"), ("waveglow", "1e30")])
@pytest.mark.slow
def test_divergence_keeps_the_good_checkpoints_and_its_advice_recovers(
    corpus: Path, tmp_path: Path, model: str, rate: str
) -> None:
    """A huge rate ruins the weights in the first step after a resume, with losses that are NaN, or huge but finite."""
    options = ("trainer.checkpoint_every_steps=1", "trainer.val_every_steps=7", "trainer.epochs=100")
    make_trainer(corpus, tmp_path / "run", model, *options, "trainer.max_steps=4").fit()
    ruining = make_trainer(
        corpus, tmp_path / "run", model, *options, f"trainer.learning_rate={rate}", "trainer.max_steps=60"
    )
    with pytest.raises(UserError) as error:
        ruining.fit()
    message = str(error.value)
    assert ruining.state.progress.step < 60
    good = Path(message.rpartition("init_from=")[2])
    assert good == tmp_path / "run/checkpoints/step_00000004.pt", message
    assert len(checkpoints.all_steps(tmp_path / "run/checkpoints")) <= 3
    recovered = make_trainer(corpus, tmp_path / "new", model, *options, f"init_from={good}", "trainer.max_steps=2")
    recovered.fit()
    assert losses(tmp_path / "new")[2] < losses(tmp_path / "run")[1]


@pytest.mark.fault(25)
def test_a_run_that_ends_with_ruined_weights_is_an_error(corpus: Path, tmp_path: Path) -> None:
    options = ("trainer.max_steps=3", "trainer.learning_rate=1e10", "trainer.val_every_steps=7")
    with pytest.raises(UserError, match=r"the loss has exploded.*no good checkpoint has been saved"):
        make_trainer(corpus, tmp_path, "tacotron2", *options).fit()
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.fault(25)
def test_an_overflow_stays_out_of_the_buffers(corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(corpus, tmp_path, "tacotron2")
    batch = trainer.task.collate([trainer.data.train[(0, 0)]])
    norm = trainer.state.model.postnet.convolutions[0][1]
    with torch.no_grad():
        trainer.state.model.postnet.convolutions[0][0].conv.weight.mul_(
            1e25
        )  # its variance is infinite, its output is not
    trainer.step([batch], trainer.new_meter())
    assert all(torch.isfinite(buffer).all() for buffer in norm.buffers())


def test_fresh_removes_the_earlier_run_and_nothing_else(corpus: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "runs/debug/waveglow"
    make_trainer(corpus, run_dir, "waveglow", "trainer.max_steps=2").fit()
    (run_dir / "notes.txt").write_text("mine")
    trainer = make_trainer(corpus, run_dir, "waveglow", "trainer.max_steps=1", "trainer.fresh=true")
    assert trainer.state.progress.step == 0
    trainer.fit()
    assert max(losses(run_dir)) == 1
    assert (run_dir / "notes.txt").read_text() == "mine"


@pytest.mark.fault(23)
def test_a_debug_run_never_removes_a_real_one(corpus: Path, waveglow_run: Path, tmp_path: Path) -> None:
    for run_dir in (tmp_path / "real", tmp_path / "runs/debug"):
        shutil.copytree(waveglow_run, run_dir)
        before = sorted(path.name for path in run_dir.rglob("*"))
        with pytest.raises(UserError, match=r"run_dir=.* holds a run.* only runs below runs/debug"):
            make_trainer(corpus, run_dir, "waveglow", "debug=fdr", f"run_dir={run_dir}")
        assert sorted(path.name for path in run_dir.rglob("*")) == before
    # Even there, only when all else is well.
    run_dir = tmp_path / "runs/debug/waveglow"
    shutil.copytree(waveglow_run, run_dir)
    with pytest.raises(UserError, match=r"absent.pt: no such file"):
        make_trainer(corpus, run_dir, "waveglow", "debug=fdr", f"run_dir={run_dir}", f"init_from={tmp_path}/absent.pt")
    assert (run_dir / "checkpoints/best.pt").exists()


def test_present_options_apply_after_a_resume(corpus: Path, tmp_path: Path) -> None:
    make_trainer(corpus, tmp_path, "waveglow", "trainer.max_steps=1").fit()
    changes = ("trainer.weight_decay=0.5", "trainer.learning_rate=0.002", "trainer.max_steps=2")
    trainer = make_trainer(corpus, tmp_path, "waveglow", *changes)
    trainer.fit()
    assert {(group["weight_decay"], group["lr"]) for group in trainer.state.optimizer.param_groups} == {(0.5, 0.002)}


def test_a_text_of_one_symbol_alone_in_a_batch(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("wavs/clip0.wav|I\n")
    trainer = make_trainer(
        corpus, tmp_path / "run", "tacotron2", f"data.train_filelist={tmp_path}/list.txt", "trainer.max_steps=1"
    )
    data = trainer.data.train
    assert isinstance(data, TextMelDataset)
    assert len(data.ids[0]) == 1
    trainer.fit()
    assert math.isfinite(losses(tmp_path / "run")[1])


def test_the_log_covers_every_step_of_short_runs_and_epochs(corpus: Path, tmp_path: Path) -> None:
    """With 4 steps per epoch, a line every 3 steps averages across epoch ends; the last one covers the rest."""
    make_trainer(corpus, tmp_path / "each", "waveglow", "trainer.max_steps=7").fit()
    make_trainer(corpus, tmp_path / "three", "waveglow", "trainer.max_steps=7", "trainer.log_every_steps=3").fit()
    assert list(losses(tmp_path / "three")) == [3, 6, 7]
    assert losses(tmp_path / "three")[7] == losses(tmp_path / "each")[7]


def test_files_of_a_run(tacotron2_run: Path, waveglow_run: Path) -> None:
    """A run leaves checkpoints, the reference's log keys, TensorBoard scalars, images and audio."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for run_dir in (tacotron2_run, waveglow_run):
        assert sorted(p.name for p in (run_dir / "checkpoints").iterdir()) == ["best.pt", "step_00000004.pt"]
        keys = {key for row in read_log(run_dir) for key in row}
        assert read_log(run_dir)[0]["config"]["trainer"]["batch_size"] == 2
        assert keys >= {"train_loss", "train_items_per_sec", "train_iter_time", "train_epoch_time", "val_loss"}
        assert keys >= {"val_items_per_sec", "run_time", "learning_rate", "grad_norm", "skipped_steps"}
        board = EventAccumulator(str(run_dir / "tensorboard"), {"images": 0, "audio": 0, "scalars": 0})
        board.Reload()
        tags = board.Tags()
        assert {"train_loss", "val_loss", "learning_rate", "grad_norm"} <= set(tags["scalars"])
        assert "mel_target" in tags["images"]
        assert tags["audio"]
    samples = {p.name for p in (tacotron2_run / "samples").iterdir()}
    assert {
        "alignment_teacher_forced_00000004.png",
        "sentence_0_alignment_00000004.png",
        "sentence_1_00000004.wav",
    } <= samples
    state = checkpoints.load(tacotron2_run / "checkpoints/best.pt")
    gain = state.state_dict["postfilter.gain"]
    assert gain.min() >= 1 < gain.max()  # validation has measured it
    model, task = load_model(tacotron2_run / "checkpoints/best.pt"), build_task(from_dict(TrainConfig, state.config))
    assert task.calibrate is not None
    with torch.no_grad():
        task.calibrate(model, task.datasets()[1], torch.Generator().manual_seed(0))
    difference = (model.get_buffer("postfilter.gain") / gain - 1).abs()
    assert difference.mean() < 0.05  # not equal because of the prenet dropout
    assert (waveglow_run / "samples/copy_synthesis_00000004.wav").stat().st_size > 1000


class Clock:
    """A substitute for the trainer's `time` that advances only in `slow` functions."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def slow(self, function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        """Return `function` with a duration of `seconds` added to each call."""

        def slowed(*arguments: object) -> object:
            self.now += seconds
            return function(*arguments)

        return slowed


@pytest.mark.parametrize("model", MODELS)
def test_items_per_second_count_data_and_steps_but_not_validation(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """A clip takes 1 s to load, a step 3 s, a report 100 s: 4 steps with 7 clips in total take 19 s."""
    clock = Clock()
    monkeypatch.setattr("common.training.trainer.time", clock)
    monkeypatch.setattr("common.training.meter.time", clock)
    options = ("trainer.max_steps=4", "trainer.log_every_steps=4", "trainer.val_every_steps=2")
    trainer = make_trainer(corpus, tmp_path, model, *options, "trainer.dry_run=false")
    trainer.validation.task = dataclasses.replace(trainer.task, report=clock.slow(trainer.task.report, 100.0))
    monkeypatch.setattr(OptimizerStep, "__call__", clock.slow(OptimizerStep.__call__, 3.0))
    data = type(trainer.data.train)
    monkeypatch.setattr(data, "__getitem__", clock.slow(data.__getitem__, 1.0))
    trainer.fit()
    rows = read_log(tmp_path)
    row = next(row for row in rows if "train_items_per_sec" in row)
    assert row["train_iter_time"] == pytest.approx(19 / 4)
    assert row["data_wait_share"] == pytest.approx(7 / 19)
    items_of = 1 if model == "tacotron2" else 256
    items = items_of * sum(trainer.data.train.lengths)
    assert row["train_items_per_sec"] == pytest.approx(items / 19)
    assert next(row for row in rows if "train_epoch_time" in row)["train_epoch_time"] == pytest.approx(19)
    val = [row["val_items_per_sec"] for row in rows if "val_items_per_sec" in row]
    assert val == pytest.approx([items_of * trainer.data.val.lengths[0] / 1.0] * 2)


def test_logged_loss_is_the_mean_over_items(corpus: Path, tmp_path: Path) -> None:
    make_trainer(corpus, tmp_path / "each", "waveglow", "trainer.max_steps=4").fit()
    make_trainer(corpus, tmp_path / "all", "waveglow", "trainer.max_steps=4", "trainer.log_every_steps=4").fit()
    each = losses(tmp_path / "each")
    sizes = [2, 2, 2, 2]
    sizes[
        [
            len(b) for b in make_trainer(corpus, tmp_path / "plan", "waveglow").data.plan.batches(0, BatchSize(2), [])
        ].index(1)
    ] = 1
    expected = sum(loss * size for loss, size in zip(each.values(), sizes, strict=True)) / sum(sizes)
    assert losses(tmp_path / "all")[4] == pytest.approx(expected)


@pytest.mark.fault(7)
def test_checkpoints_are_pruned_and_the_best_is_kept(corpus: Path, tmp_path: Path) -> None:
    make_trainer(
        corpus, tmp_path, "tacotron2", "trainer.max_steps=6", "trainer.checkpoint_every_steps=1",
        "trainer.val_every_steps=3", "trainer.keep_last=2",
    ).fit()  # fmt: skip
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["best.pt", "step_00000005.pt", "step_00000006.pt"]


def test_finished_run_says_so(tacotron2_run: Path, corpus: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "copy"
    shutil.copytree(tacotron2_run, run_dir)
    result = run_here(*train_command(corpus, run_dir, TINY_TACOTRON2, "trainer.max_steps=4"))
    assert "nothing to do" in result.stdout
    assert "resumed from" in result.stdout


def torchrun(num_ranks: int, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}", *command],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow  # five trainings, four of them by two processes
@pytest.mark.fault(11)
def test_two_ranks_equal_one_and_resume_as_one(corpus: Path, tmp_path: Path) -> None:
    """Two gloo ranks with one clip each train WaveGlow as one process with two; then one process continues."""
    no_dropout = [f"model.{p}=0.0" for p in ("prenet_dropout", "p_attention_dropout", "p_decoder_dropout")]
    no_dropout += ["model.p_encoder_dropout=0.0", "model.p_postnet_dropout=0.0"]
    with_adversary = [*no_dropout, "task.adversary_weight=1", "trainer.accumulation_steps=2"]
    for name, model, extra in (("tacotron2", TINY_TACOTRON2, with_adversary), ("waveglow", TINY_WAVEGLOW, [])):
        run_dir = tmp_path / name
        command = train_command(corpus, run_dir, model, *extra, "trainer.batch_size=1", "trainer.max_steps=2")
        result = torchrun(2, *command)
        assert result.returncode == 0, result.stdout + result.stderr
        single = train_command(corpus, tmp_path / f"{name}1", model, *extra, "trainer.max_steps=2")
        run_here(*single)
        two, one = losses(run_dir), losses(tmp_path / f"{name}1")
        assert two.keys() == one.keys() == {1, 2}
        if name == "waveglow":  # in Tacotron 2 each rank has its own BatchNorm statistics
            assert two[1] == pytest.approx(one[1], rel=1e-4)
            assert two[2] == pytest.approx(one[2], rel=1e-3)
        run_here(*train_command(corpus, run_dir, model, *extra, "trainer.max_steps=5"))
        assert max(losses(run_dir)) == 5
        progress = checkpoints.load(checkpoints.find(run_dir)).progress
        assert progress is not None
        assert progress.epoch == (2 if name == "tacotron2" else 1)  # Tacotron 2 takes two batches for a step


def test_checkpoints_by_the_clock(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Short runs save too, and the end of a run says how to listen to it."""
    options = ("trainer.max_steps=3", "trainer.checkpoint_every_steps=1000", "trainer.keep_last=9")
    make_trainer(corpus, tmp_path / "a", "waveglow", *options, "trainer.checkpoint_every_minutes=1e-6").fit()
    make_trainer(corpus, tmp_path / "b", "waveglow", *options, "trainer.checkpoint_every_minutes=null").fit()
    steps = [checkpoints.all_steps(tmp_path / name / "checkpoints") for name in "ab"]
    assert [[path.name[-6:] for path in paths] for paths in steps] == [["001.pt", "002.pt", "003.pt"], ["003.pt"]]
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert (
        f"finished at step 3; listen with: python inference.py tacotron2=RUN waveglow={tmp_path}"
        in capsys.readouterr().out
    )


# ---- bad input, before any step ----


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (None, ["filelist", "bad.txt", "No such file"]),
        ("", ["bad.txt", "no line of text"]),
        ("wavs/clip0.wav|", ["bad.txt:1", "transcript of wavs/clip0.wav is empty"]),
        ("wavs/nope.wav|text", ["bad.txt:1", "wavs/nope.wav does not exist"]),
    ],
)
@pytest.mark.fault(17)
def test_bad_filelists(corpus: Path, tmp_path: Path, model: str, row: str | None, parts: list[str]) -> None:
    if row is not None:
        (tmp_path / "bad.txt").write_text(row)
    with pytest.raises(UserError) as error:
        make_trainer(corpus, tmp_path / "run", model, f"data.train_filelist={tmp_path}/bad.txt")
    assert all(part in str(error.value) for part in parts)


@pytest.mark.fault(6)
def test_bad_input_ends_without_a_traceback(corpus: Path, tmp_path: Path) -> None:
    command = train_command(corpus, tmp_path / "run", TINY_TACOTRON2)
    fails_with(run_here(*command, f"data.train_filelist={tmp_path}/x.txt", expect=1), "x.txt", "check the path")
    absent = f"data.train_filelist={corpus}/filelists/x.txt"
    fails_with(run_here(*command, absent, expect=1), "x.txt: no such file", f"prepare_dataset.sh {corpus}")
    fails_with(run_here(*command, "audio.fmax=7000", expect=1), "audio.fmax is 7000.0, stored 8000.0")
    fails_with(run_here(*command, "data.mel_dir=/nowhere", expect=1), "/nowhere", "prepare_mels.sh")
    assert not list((tmp_path / "run/checkpoints").glob("*.pt"))
    (tmp_path / "file").write_text("in the way")
    command = train_command(corpus, tmp_path / "file", TINY_TACOTRON2)
    fails_with(run_here(*command, expect=1), "file", "choose another run_dir")


@pytest.mark.fault(16)
def test_a_clip_that_is_no_longer_audio(corpus: Path, tmp_path: Path) -> None:
    """WaveGlow reads clips in training: a clip newer than its mel is found before the first step."""
    root = tmp_path / "corpus"
    shutil.copytree(corpus, root)
    (root / "wavs/clip2.wav").write_bytes(b"no audio any more")
    command = train_command(root, tmp_path / "run", TINY_WAVEGLOW)
    fails_with(run_here(*command, expect=1), "wavs/clip2.wav", "prepare_mels.sh")


@pytest.mark.fault(16)
def test_an_error_in_a_loader_process_is_one_message(corpus: Path, tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    shutil.copytree(corpus, root)
    for clip in (root / "wavs").iterdir():  # same size and time: the change shows only when a clip is read
        stat = clip.stat()
        clip.write_bytes(b"x" * stat.st_size)
        os.utime(clip, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    command = train_command(root, tmp_path / "run", TINY_WAVEGLOW, "data.num_workers=1")
    fails_with(run_here(*command, expect=1), "error: ", "not a readable audio file")


@pytest.mark.fault(11)
def test_other_data_or_seed_restarts_the_epoch(corpus: Path, tmp_path: Path) -> None:
    make_trainer(corpus, tmp_path, "waveglow", "trainer.max_steps=2").fit()
    with pytest.warns(UserWarning, match="the current epoch starts from its beginning"):
        trainer = make_trainer(corpus, tmp_path, "waveglow", "seed=5")
    assert trainer.state.progress.done == []
    assert trainer.state.progress.step == 2


@pytest.mark.fault(5)
def test_a_run_directory_of_another_run(tacotron2_run: Path, corpus: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "copy"
    shutil.copytree(tacotron2_run, run_dir)
    with pytest.raises(UserError, match="holds a tacotron2; choose another run_dir"):
        make_trainer(corpus, run_dir, "waveglow")
    with pytest.raises(UserError, match=r"decoder.attention_rnn.*\(96, .*the model's is \(128"):
        make_trainer(corpus, run_dir, "tacotron2", "model.attention_rnn_dim=32")
    with pytest.raises(UserError, match=r"data.cleaners=english_cleaners, not basic_cleaners; use the same"):
        make_trainer(corpus, run_dir, "tacotron2", "data.cleaners=basic_cleaners")
    with pytest.raises(UserError, match=r"other symbols \(data.characters\); use the same, or another run_dir"):
        make_trainer(corpus, run_dir, "tacotron2", "data.characters=' abcdefghijklmnopqrstuvwxyz.'")
    with pytest.raises(UserError, match=r"was trained with model.mel_mean=0.0; use the same, or another run_dir"):
        make_trainer(corpus, run_dir, "tacotron2", "model.mel_mean=-5")


# ---- checkpoints ----


@pytest.mark.fault(2, 3)
def test_damaged_checkpoints_are_named(tacotron2_run: Path, tmp_path: Path) -> None:
    good = checkpoints.find(tacotron2_run).read_bytes()
    bad = tmp_path / "bad.pt"
    for content, message in (
        (b"", "not a readable checkpoint"),
        (b"rubbish" * 100, "not a readable checkpoint"),
        (good[: len(good) // 2], "not a readable checkpoint"),
        (good[: len(good) // 3] + b"\xff" + good[len(good) // 3 + 1 :], "checksum|not a readable"),
    ):
        bad.write_bytes(content)
        with pytest.raises(UserError, match=f"bad.pt.*({message})"):
            checkpoints.load(bad)
    torch.save({"some": "dict"}, bad)
    with pytest.raises(UserError, match="its format is None"):
        checkpoints.load(bad)
    torch.save(nn.Linear(1, 1), bad)
    with pytest.raises(UserError, match="refused"):
        checkpoints.load(bad)


@pytest.mark.fault(2)
def test_a_damaged_newest_checkpoint_is_skipped(corpus: Path, tmp_path: Path) -> None:
    options = ("trainer.checkpoint_every_steps=1", "trainer.keep_last=2")
    make_trainer(corpus, tmp_path, "waveglow", *options, "trainer.max_steps=3").fit()
    directory = tmp_path / "checkpoints"
    for step, resumed in ((3, 2), (2, None)):
        path = directory / f"step_{step:08d}.pt"
        path.write_bytes(path.read_bytes()[:5000])
        if resumed:
            with pytest.warns(UserWarning, match=r"step_00000003.pt.*the older step_00000002.pt is used"):
                assert make_trainer(corpus, tmp_path, "waveglow", *options).state.progress.step == resumed
        else:
            with pytest.raises(UserError, match=r"(?s)step_00000003.*step_00000002.*can be read"):
                make_trainer(corpus, tmp_path, "waveglow", *options)


@pytest.mark.fault(6)
def test_a_full_disk_while_writing(tmp_path: Path) -> None:
    """A file size limit stands in for a full disk: here the write itself fails, not fsync."""
    checkpoints.save(tmp_path / "step_00000001.pt", checkpoint_of(1))
    code = f"""
import resource, signal, sys, torch
from pathlib import Path
from common.checkpoint import files
from tests.helpers.runs import checkpoint_of
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    files.save(Path({str(tmp_path)!r}) / "step_00000001.pt", checkpoint_of(1_000_000))
except files.UserError as error:
    print(error)
"""
    assert "step_00000001.pt: not written" in run_process("-c", code).stdout
    assert checkpoints.load(tmp_path / "step_00000001.pt").state_dict["a"].shape == (1,)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001.pt"]


@pytest.mark.fault(6)
def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "step_00000001.pt"
    checkpoints.save(path, checkpoint_of(1))

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match="No space left on device"):
        checkpoints.save(path, checkpoint_of(2))
    assert checkpoints.load(path).state_dict["a"].shape == (1,)
    assert list(tmp_path.iterdir()) == [path]
