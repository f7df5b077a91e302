"""The training engine apart from fault tolerance: batches that fit, averages, metrics, early warnings."""

import dataclasses
import math
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.checkpoint import files as checkpoints
from common.config import TrainConfig
from common.data.batching import BatchPlan, BatchSize, RankSampler
from common.errors import UserError
from common.ops.dropout import TanhDropout, draw_kept, dropout
from common.ops.precision import autocast
from common.schema import from_dict
from common.training.ema import MovingAverage
from common.training.meter import Meter, paused
from inference import load_model
from tacotron2.loss import guided_attention_loss, mel_band_difference_loss
from tacotron2.measures import GATE_TOLERANCE, diagonality, gate_accuracy
from tacotron2.model import Tacotron2Output
from tacotron2.task import ENGLISH_SENTENCES, Tacotron2Report
from tacotron2.text import text_to_ids
from tests.helpers.commands import composed, fails_with, run_here, run_process
from tests.helpers.runs import TINY_WAVEGLOW, assert_same_run, losses, make_trainer, read_log, train_command
from tests.helpers.waveglow import randomize_couplings
from train import build_task

# ---- batches under a frame budget ----

LENGTHS = np.random.default_rng(0).integers(50, 800, 500).tolist()


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_no_rank_gets_more_frames_than_the_budget(ranks: int) -> None:
    plan, size = BatchPlan(LENGTHS, seed=0), BatchSize.of(100, 4000, ranks)
    batches = plan.batches(0, size, [])
    assert sorted(clip for batch in batches for clip in batch) == list(range(len(LENGTHS)))
    largest = plan.largest(size)
    padded = [len(batch) * max(LENGTHS[clip] for clip in batch) for batch in batches]
    assert max(padded) <= len(largest) * max(LENGTHS[clip] for clip in largest)
    for rank in range(ranks):
        sampler = RankSampler(rank, ranks)
        shares = [sampler.share(batch) for batch in [*batches, largest]]
        assert max(len(share) * max(LENGTHS[clip] for clip in share) for share in shares) <= 4000
    assert 1 - sum(LENGTHS) / sum(padded) < 0.1  # padding
    assert max(padded) > 0.9 * 4000 * ranks  # the budget is used


def test_the_largest_batch_of_a_fixed_number_of_clips_has_the_longest() -> None:
    plan = BatchPlan(LENGTHS, seed=0)
    assert sorted(LENGTHS[clip] for clip in plan.largest(BatchSize(8))) == sorted(LENGTHS)[-8:]


@pytest.mark.fault(11)
@pytest.mark.parametrize("then", [(1, 4000), (3, 4000), (2, None), (2, 9000)])
def test_another_number_of_ranks_takes_each_remaining_clip_once(then: tuple[int, int | None]) -> None:
    plan, first = BatchPlan(LENGTHS, seed=0), BatchSize.of(100, 4000, 2)
    done = [[*first, 7]]
    taken = [clip for batch in plan.batches(3, first, [])[:7] for clip in batch]
    ranks, frames = then
    left = [clip for batch in plan.batches(3, BatchSize.of(100, frames, ranks), done) for clip in batch]
    assert sorted(taken + left) == list(range(len(LENGTHS)))


@pytest.mark.fault(9)
def test_resume_under_a_budget(corpus: Path, tmp_path: Path) -> None:
    options = ("trainer.batch_size=5", "trainer.batch_frames=230")
    make_trainer(corpus, tmp_path / "whole", "tacotron2", *options, "trainer.max_steps=5").fit()
    for steps in (1, 3, 5):
        make_trainer(corpus, tmp_path / "parts", "tacotron2", *options, f"trainer.max_steps={steps}").fit()
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_clip_longer_than_the_budget_is_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"batch_frames=50 is less than the \d+ mel frames of .*train.txt:\d"):
        make_trainer(corpus, tmp_path, "tacotron2", "trainer.batch_frames=50")


@pytest.mark.parametrize("frames", [1, 7])
def test_a_segment_longer_than_the_budget_says_what_to_set(corpus: Path, tmp_path: Path, frames: int) -> None:
    """A segment of 2,048 samples has 8 frames of 256."""
    options = (f"trainer.batch_frames={frames}", "data.segment_length=2048")
    message = rf"batch_frames={frames} is less than the 8 mel frames of .*set trainer.batch_frames=8 or more.*segment"
    with pytest.raises(UserError, match=message):
        make_trainer(corpus, tmp_path, "waveglow_small", *options)
    make_trainer(corpus, tmp_path, "waveglow_small", "trainer.batch_frames=8", "data.segment_length=2048")


def test_the_padding_share_counts_padded_positions(corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(corpus, tmp_path, "tacotron2")
    meter, lengths = Meter(trainer.task.objective.part_names), trainer.data.train.lengths
    trainer.step([trainer.task.collate([trainer.data.train[(i, 0)] for i in (0, 1, 2)])], meter)
    expected = 1 - sum(lengths[:3]) / (3 * max(lengths[:3]))
    assert expected > 0.05
    assert meter.summary(trainer.device).padding_share == pytest.approx(expected)


# ---- memory ----


def test_the_dry_run_leaves_no_trace(corpus: Path, tmp_path: Path) -> None:
    for name in ("true", "false"):
        options = (f"trainer.dry_run={name}", "trainer.max_steps=3")
        make_trainer(corpus, tmp_path / name, "tacotron2", *options).fit()
    assert_same_run(tmp_path / "true", tmp_path / "false")


def test_out_of_memory_is_an_error_with_a_cure_before_the_first_step(corpus: Path, tmp_path: Path) -> None:
    command = train_command(corpus, tmp_path, TINY_WAVEGLOW, "data.segment_length=8000000")
    code = f"""
import resource, runpy, sys, torch
from common.training import trainer
before = trainer.dry_run
def limited(*arguments):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, -1))
    return before(*arguments)
trainer.dry_run = limited
sys.argv = {command!r}
runpy.run_path("train.py", run_name="__main__")
"""
    result = run_process("-c", code, expect=1)
    cures = ("trainer.batch_frames", "trainer.accumulation_steps", "task.checkpoint_activations=true")
    fails_with(result, "out of memory", *cures)
    assert not losses(tmp_path)


# ---- previews ----


def test_pictures_come_before_the_first_validation_and_change_nothing(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With dropout, batch norm and averaged weights, the run is the same bit for bit."""
    seen = []
    for name, seconds in (("plain", 0), ("previews", 130)):
        trainer = make_trainer(corpus, tmp_path / name, "tacotron2", "trainer.max_steps=3", "trainer.ema_decay=0.9")
        trainer.validation.started -= seconds
        trainer.fit()
        pictures = (tmp_path / name / "samples").glob("alignment_teacher_forced_*.png")
        seen.append(sorted(int(path.stem[-8:]) for path in pictures))
    assert seen == [[3], [1, 3]]  # that of step 3 is from the validation at the end
    assert f"step       1  plots and audio of this step are in {tmp_path}/previews/samples" in capsys.readouterr().out
    assert_same_run(tmp_path / "plain", tmp_path / "previews")


def test_previews_end_with_the_first_validation_and_are_made_by_rank_0(corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(corpus, tmp_path, "waveglow")
    validation, steps = trainer.validation, []
    validation.task = dataclasses.replace(trainer.task, report=lambda *arguments: steps.append(arguments[3]))
    validation.preview(trainer.tracker)
    assert steps == []  # 2 minutes have not passed
    validation.started -= 130
    validation.ranks = dataclasses.replace(trainer.ranks, rank=1)
    validation.preview(trainer.tracker)
    assert steps == []
    validation.ranks = trainer.ranks
    validation.preview(trainer.tracker)
    validation.preview(trainer.tracker)
    assert len(steps) == 1
    validation.started -= 130  # the next one comes when twice the time has passed
    validation.preview(trainer.tracker)
    assert len(steps) == 2
    trainer.validate()
    assert len(steps) == 3
    validation.started -= 1000
    validation.preview(trainer.tracker)
    assert len(steps) == 3


def test_time_that_is_paused_does_not_count() -> None:
    meters = Meter(["loss"]), Meter(["loss"])
    starts, began = [meter.start for meter in meters], time.monotonic()
    with paused(*meters):
        time.sleep(0.02)
    ended = time.monotonic()
    assert all(0.02 <= meter.start - start <= ended - began for meter, start in zip(meters, starts, strict=True))


# ---- averages ----


def test_moving_average() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = MovingAverage(model, 0.9)
    nn.init.constant_(model.weight, 1.0)
    average.weights["weight"].zero_()
    average.update(10**6)
    assert float(average.weights["weight"]) == pytest.approx(0.1)
    average.update(10**6)
    assert float(average.weights["weight"]) == pytest.approx(0.19)
    average.update(0)  # the decay is smaller in early steps: (1 + 0) / (10 + 0)
    assert float(average.weights["weight"]) == pytest.approx(0.1 * 0.19 + 0.9)
    with average.in_place():
        assert model.weight.item() == pytest.approx(0.919)
    assert model.weight.item() == 1.0
    assert MovingAverage(model, None).weights == {}


@pytest.mark.fault(9)
def test_an_averaged_run_validates_resumes_and_loads_with_the_average(corpus: Path, tmp_path: Path) -> None:
    options = ("trainer.ema_decay=0.5", "trainer.val_every_steps=2")
    trainer = make_trainer(corpus, tmp_path / "whole", "waveglow", *options, "trainer.max_steps=4")
    trainer.fit()
    for steps in (1, 4):
        make_trainer(corpus, tmp_path / "parts", "waveglow", *options, f"trainer.max_steps={steps}").fit()
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    checkpoint = checkpoints.load(checkpoints.find(tmp_path / "whole"))
    spoken = load_model(tmp_path / "whole").state_dict()
    assert all(torch.equal(spoken[name], weight) for name, weight in checkpoint.average.items())
    assert not torch.equal(spoken["WN.0.end.weight"], checkpoint.state_dict["WN.0.end.weight"])
    logged = [row["val_loss"] for row in read_log(tmp_path / "whole") if "val_loss" in row]
    meter = Meter(trainer.task.objective.part_names)
    with trainer.state.average.in_place(), torch.no_grad():
        batch, generator = next(iter(trainer.data.val_loader)), torch.Generator()
        meter.add(trainer.task.objective(trainer.state.model.eval(), batch, None, generator))
    assert logged[-1] == pytest.approx(meter.summary(trainer.device).parts["loss"], abs=1e-5)


def test_average_of_checkpoints(corpus: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    make_trainer(corpus, run_dir, "waveglow", "trainer.max_steps=3", "trainer.checkpoint_every_steps=1").fit()
    out = tmp_path / "average.pt"
    run_here("scripts/average_checkpoints.py", out, run_dir)
    states = [checkpoints.load(path).state_dict for path in checkpoints.all_steps(run_dir / "checkpoints")]
    assert len(states) == 2
    for name, weight in load_model(out).state_dict().items():
        torch.testing.assert_close(weight, (states[0][name] + states[1][name]) / 2)
    fails_with(run_here("scripts/average_checkpoints.py", out, run_dir, expect=1), "exists already")


# ---- training metrics ----


def test_diagonality_of_known_alignments() -> None:
    lengths = torch.tensor([20, 10])
    diagonal = torch.zeros(2, 40, 20)
    for clip, length in enumerate(lengths.tolist()):
        for frame in range(2 * length):
            diagonal[clip, frame, frame // 2] = 1
    assert diagonality(diagonal, lengths, 2 * lengths) == 1
    assert diagonality(diagonal.flip(2)[:1], lengths[:1], 2 * lengths[:1]) < 0.15  # read backwards
    assert diagonality(torch.full((1, 40, 20), 1 / 20), lengths[:1], 2 * lengths[:1]) == pytest.approx(0.19, abs=0.02)
    stuck = torch.zeros(1, 40, 20)
    stuck[:, :, 0] = 1
    assert diagonality(stuck, lengths[:1], 2 * lengths[:1]) < 0.15


def test_guided_attention_of_known_alignments() -> None:
    """The loss is 0 on the diagonal, 1 - exp(-d^2 / 2 g^2) at a distance d, and 0 in padded frames."""
    alignment = torch.eye(10).unsqueeze(0)
    lengths = torch.tensor([10])
    assert guided_attention_loss(alignment, lengths, lengths) == 0
    shifted = torch.zeros(1, 10, 20)
    shifted[0, torch.arange(10), 2 * torch.arange(10) + 1] = 1  # one character ahead, a twentieth of the text
    expected = 1 - math.exp(-(0.05**2) / (2 * 0.2**2))
    assert guided_attention_loss(shifted, torch.tensor([20]), lengths) == pytest.approx(expected, rel=1e-4)
    padded = torch.cat((alignment, torch.full((1, 5, 10), 0.1)), 1)
    assert guided_attention_loss(padded, lengths, lengths) == 0


def test_band_differences_of_known_mels() -> None:
    mel, lengths = torch.randn(2, 6, 9), torch.tensor([9, 4])
    ripple = torch.tensor([1.0, -1, 1, -1, 1, -1]).view(6, 1).expand(2, 6, 9).clone()
    ripple[1, :, 4:] = torch.randn(6, 5)  # beyond the end
    louder, rippled = Tacotron2Output(mel + 3, mel + 3, *[mel] * 2), Tacotron2Output(mel + 3, mel + ripple, *[mel] * 2)
    assert mel_band_difference_loss(louder, mel, lengths) == pytest.approx(0, abs=1e-6)
    assert mel_band_difference_loss(rippled, mel, lengths) == pytest.approx(4)


def test_guided_attention_is_only_in_the_training_loss(corpus: Path, tmp_path: Path) -> None:
    plain, guided = (
        make_trainer(
            corpus,
            tmp_path / name,
            "tacotron2",
            f"task.guided_attention_weight={weight}",
            "task.guided_attention_steps=null",
        )
        for name, weight in (("plain", 0), ("guided", 5))
    )
    batch = plain.task.collate([plain.data.train[(0, 0)]])
    for is_training in (True, False):
        values = []
        for trainer in (plain, guided):
            model, generator = trainer.state.model.train(is_training), torch.Generator().manual_seed(0)
            values.append(trainer.task.objective(model, batch, None, generator).loss.item())
        assert (values[1] > values[0]) == is_training


def test_gate_accuracy_of_known_gates() -> None:
    """6 clips of 40 frames, 2 per step: on time, as early as allowed, too early, never, at once, past the end."""
    gate = torch.full((6, 50), -9.0)
    for clip, first_step in enumerate((19, 19 - GATE_TOLERANCE, 18 - GATE_TOLERANCE, 25, 0, 20)):
        gate[clip, 2 * first_step :] = 9.0
    assert gate_accuracy(gate, torch.full((6,), 40), frames_per_step=2) == pytest.approx(2 / 6)


def test_attention_that_does_not_align_gives_one_warning(corpus: Path, tmp_path: Path) -> None:
    options = ("task.align_by_step=2", "trainer.max_steps=4")
    trainer = make_trainer(corpus, tmp_path, "tacotron2", *options)
    trainer.fit()
    warnings = [row for row in read_log(tmp_path) if "warning" in row]
    assert [row["step"] for row in warnings] == [0, 2]
    frames = sum(trainer.data.val.lengths)
    assert f"the validation set, 1 clip with {frames} frames (1 s), is too short" in warnings[0]["warning"]
    assert "2,000 frames (23 s) are needed" in warnings[0]["warning"]
    assert "the attention does not follow the text at step 2: its diagonality is 0." in warnings[1]["warning"]
    assert "model.n_frames_per_step=2" in warnings[1]["warning"]
    advice = trainer.task.objective.advice
    assert advice(10_000, {"diagonality": 0.8}) == advice(None, {"diagonality": 0.8}) == ""
    assert advice(1, {"diagonality": 0.1}) == ""
    assert advice(None, {"diagonality": 0.1}).startswith("the attention does not follow the text yet: ")
    rows = [row for row in read_log(tmp_path) if "val_loss" in row]
    assert all(0 <= row["val_diagonality"] <= 1 and 0 <= row["val_gate_accuracy"] <= 1 for row in rows)


def test_sentences_that_cannot_be_read_are_left_out(corpus: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="dropped"):
        trainer = make_trainer(corpus, tmp_path, "tacotron2", "data.sentences=['Hello.', '###']")
    report = trainer.task.report
    assert isinstance(report, Tacotron2Report)
    assert report.sentences == [("Hello.", text_to_ids("Hello."))]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["data.cleaners=english_arpabet"], list(ENGLISH_SENTENCES)),
        (["data.cleaners=basic_cleaners"], None),
        (["data.cleaners=basic_cleaners", "data.sentences=[Guten Morgen]"], ["Guten Morgen"]),
    ],
)
def test_the_sentences_of_validation_follow_the_cleaners(options: list[str], expected: list[str] | None) -> None:
    config = from_dict(TrainConfig, composed("train", "model=tacotron2", "data.root=x", "run_dir=x", *options))
    report = build_task(config).report
    assert isinstance(report, Tacotron2Report)
    texts = None if report.sentences is None else [text for text, _ in report.sentences]
    assert texts == expected


def test_other_languages_synthesize_their_first_transcripts(corpus: Path, tmp_path: Path) -> None:
    options = ("data.cleaners=basic_cleaners", "data.sentences=null", "trainer.max_steps=1")
    trainer = make_trainer(corpus, tmp_path, "tacotron2", *options)
    trainer.fit()
    (clip,) = trainer.data.val.clips
    assert [row["sentences"] for row in read_log(tmp_path) if "sentences" in row] == [[clip.text]]
    assert len(list((tmp_path / "samples").glob("sentence_*.wav"))) == 1


def test_a_line_of_the_console_fits_80_columns(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line has the largest numbers: a late step on many GPUs."""
    trainer = make_trainer(corpus, tmp_path, "waveglow", "trainer.max_steps=123457", "trainer.epochs=2000")
    trainer.state.progress.step, trainer.state.progress.epoch = 123456, 1000
    meter = trainer.meter
    meter.steps, meter.positions, meter.grad_norm = 1, 9_999_999, 112.38
    meter.items, meter.weight, meter.parts = 9_999_999, 9_999_999, [torch.tensor(-9_999_999 * 5.72)]
    meter.start = time.monotonic() - 1
    trainer._log()
    line = capsys.readouterr().out.splitlines()[-1]
    assert "step 123,456 epoch 1000 loss -5.7200 grad 112.38" in line
    assert "samples/s" in line
    assert len(line) <= 80


def test_tanh_and_dropout_in_one() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, dtype=torch.float64).requires_grad_()
    kept = (torch.rand(3, 4, 5) > 0.5) & (torch.arange(5) < 4)
    expected = torch.tanh(x) * kept * 1.7
    torch.testing.assert_close(TanhDropout.apply(1 * x, kept, 1.7), expected)
    assert torch.autograd.gradcheck(lambda x: TanhDropout.apply(1 * x, kept, 1.7), (x,))


def test_dropout_masks_have_the_right_mean_and_follow_the_seed() -> None:
    for p in (0.1, 0.5, 0.9):
        torch.manual_seed(0)
        kept = draw_kept((1000, 1001), p, torch.device("cpu"), None)
        assert kept.float().mean() == pytest.approx(1 - p, abs=0.002)
        columns = kept[:, :1000].view(1000, 250, 4).float()  # the four values drawn from one random number
        assert torch.corrcoef(columns.flatten(0, 1).T).fill_diagonal_(0).abs().max() < 0.01
        torch.manual_seed(0)
        assert torch.equal(kept, draw_kept((1000, 1001), p, torch.device("cpu"), None))
    x = torch.ones(1_000_000)
    assert dropout(x, 0.3, None).mean() == pytest.approx(1, abs=0.003)
    assert dropout(x, 0.0, None) is x


# ---- numerical robustness ----


@pytest.mark.fault(14)
def test_waveglow_in_fp16_on_digital_silence_is_finite(corpus: Path, tmp_path: Path) -> None:
    """Zeros pass through every flow and the loss is scaled by 65536, yet the whole gradient is finite."""
    trainer = make_trainer(corpus, tmp_path, "waveglow", "trainer.precision=fp16")
    randomize_couplings(trainer.state.model)
    batch = trainer.task.collate([trainer.data.train[(i, 0)] for i in range(2)])
    silent = batch._replace(audio=torch.zeros_like(batch.audio), mel=torch.full_like(batch.mel, math.log(1e-5)))
    with autocast(trainer.device, "fp16"):
        output = trainer.state.model(*silent)
        assert {tensor.dtype for tensor in (*output.log_s, *output.log_det)} == {torch.float32}
        assert all(bool(torch.isfinite(tensor).all()) for tensor in (output.z, *output.log_s, *output.log_det))
    meter = trainer.new_meter()
    trainer.step([silent], meter)
    assert int(meter.skipped) == 0
    assert math.isfinite(meter.summary(trainer.device).parts["loss"])


@pytest.mark.fault(15)
def test_an_overflow_halves_the_scale_and_advances_nothing(corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(corpus, tmp_path, "waveglow", "trainer.precision=fp16")
    batch = trainer.task.collate([trainer.data.train[(0, 0)]])
    trainer.step([batch], trainer.new_meter())
    scale, rate = trainer.state.scaler.get_scale(), trainer.state.optimizer.param_groups[0]["lr"]
    steps = {float(state["step"]) for state in trainer.state.optimizer.state.values()}
    before = {name: value.clone() for name, value in trainer.state.model.state_dict().items()}
    meter = trainer.new_meter()
    trainer.step([batch._replace(audio=batch.audio * float("inf"))], meter)
    assert trainer.state.scaler.get_scale() == scale / 2
    assert {float(state["step"]) for state in trainer.state.optimizer.state.values()} == steps
    assert trainer.state.optimizer.param_groups[0]["lr"] == rate
    assert int(meter.skipped) == 1
    assert all(torch.equal(value, before[name]) for name, value in trainer.state.model.state_dict().items())


@pytest.mark.fault(7)
def test_nan_is_never_the_best(corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(corpus, tmp_path, "waveglow")
    trainer.validate()
    best = (tmp_path / "checkpoints/best.pt").read_bytes()
    assert math.isfinite(trainer.state.progress.best_loss)
    with torch.no_grad():
        trainer.state.model.WN[0].end.bias.fill_(float("nan"))
    trainer.validate()
    assert math.isfinite(trainer.state.progress.best_loss)
    assert (tmp_path / "checkpoints/best.pt").read_bytes() == best
    assert read_log(tmp_path)[-1]["val_loss"] is None


@pytest.mark.parametrize("ema_decay", ["null", "0.5"])
def test_packed_weights_follow_the_optimizer(corpus: Path, tmp_path: Path, ema_decay: str) -> None:
    """Synthesis during validation uses the weights of that step, averaged or not."""
    options = (f"trainer.ema_decay={ema_decay}", "model.prenet_dropout=0.0", "trainer.learning_rate=0.1")
    trainer = make_trainer(corpus, tmp_path, "tacotron2", *options)
    batch = trainer.task.collate([trainer.data.train[(0, 0)]])
    before = None
    for step in (1, 2, 3):
        trainer.step([batch], trainer.new_meter())
        trainer.state.average.update(step)
        mels = []
        with trainer.state.average.in_place():
            for trainer.state.model.decoder.fused in (False, True):
                mels.append(trainer.state.model.eval().infer(batch.text, batch.text_lengths, 5).mel_postnet)
        torch.testing.assert_close(mels[1], mels[0], atol=1e-4, rtol=1e-3)
        assert before is None or before.shape != mels[0].shape or not torch.allclose(before, mels[0], atol=1e-3)
        before = mels[0]
        trainer.state.model.train()


def test_loader_processes_end_with_the_run(corpus: Path, tmp_path: Path) -> None:
    """They also end in the middle of an epoch; otherwise Python would wait for them forever when it exits."""
    before = set(multiprocessing.active_children())
    options = ("data.num_workers=1", "trainer.batch_size=1", "trainer.max_steps=1")
    trainer = make_trainer(corpus, tmp_path, "waveglow", *options)
    trainer.fit()
    assert len(trainer.data.train) > 2
    assert set(multiprocessing.active_children()) <= before
