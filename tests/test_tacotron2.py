"""Tacotron 2 reproduces the reference's numbers, and is correct where the reference is not."""

import dataclasses

import pytest
import torch
from torch import Tensor

from common.errors import UserError
from common.ops.padding import lengths_to_mask
from tacotron2.loss import gate_target, tacotron2_loss
from tacotron2.model import Tacotron2, Tacotron2Config
from tacotron2.postfilter import MAX_GAIN, Postfilter, cosines
from tests.helpers.golden import golden
from tests.helpers.tacotron2 import TINY, golden_inputs, golden_model, model_of, ragged_batch


def model_like(model: Tacotron2, config: Tacotron2Config) -> Tacotron2:
    other = Tacotron2(config)
    other.load_state_dict(model.state_dict())
    return other


def test_parameter_count() -> None:
    with torch.device("meta"):
        model = Tacotron2(Tacotron2Config())
    assert sum(p.numel() for p in model.parameters()) == 28_193_153


def test_golden_teacher_forced() -> None:
    io, inputs = golden_inputs()
    with torch.no_grad():
        output = golden_model().eval()(*inputs)
    for name, key in (("mel", "mel_out"), ("mel_postnet", "mel_out_postnet"), ("gate", "gate_out")):
        torch.testing.assert_close(getattr(output, name), io[key], atol=1e-4, rtol=0)
    torch.testing.assert_close(output.alignment, io["alignments"], atol=1e-4, rtol=0)
    torch.testing.assert_close(tacotron2_loss(output, io["mel"], io["mel_lengths"])["loss"], io["loss"])


def test_golden_free_running() -> None:
    io, inputs = golden_inputs()
    speech = golden_model(gate_threshold=2.0).eval().infer(inputs[0], inputs[1], 37)
    torch.testing.assert_close(speech.mel_postnet, io["infer_mel_postnet"], atol=1e-4, rtol=0)
    assert speech.truncated.all()
    assert speech.mel_lengths.tolist() == [37, 37, 37]


def test_golden_gradients() -> None:
    io, inputs = golden_inputs()
    model = golden_model().train()
    loss = tacotron2_loss(model(*inputs), io["mel"], io["mel_lengths"])["loss"]
    loss.backward()
    theirs = golden("dle_tacotron2_grads.pt")
    torch.testing.assert_close(loss.detach(), torch.as_tensor(theirs["loss_train_nodropout"]))
    expected = {key.removeprefix("module."): value for key, value in theirs["grads"].items()}
    assert expected.keys() == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        largest = expected[name].abs().max().item()
        # The gradient of a bias before BatchNorm is only rounding noise, 1e-8 here.
        assert (parameter.grad - expected[name]).abs().max().item() <= max(1e-4 * largest, 1e-6), name


@pytest.mark.parametrize(("frames_per_step", "mel_mean"), [(1, 0.0), (2, -5.0), (3, 0.0)])
def test_padding_changes_nothing(frames_per_step: int, mel_mean: float) -> None:
    model = model_of(dataclasses.replace(TINY, n_frames_per_step=frames_per_step, mel_mean=mel_mean)).eval()
    text, text_lengths, mel, mel_lengths = ragged_batch()
    with torch.no_grad():
        together = model(text, text_lengths, mel, mel_lengths)
        for i, (num_symbols, num_frames) in enumerate(zip(text_lengths, mel_lengths, strict=True)):
            alone = model(
                text[i : i + 1, :num_symbols], text_lengths[i : i + 1], mel[i : i + 1, :, :num_frames],
                mel_lengths[i : i + 1],
            )  # fmt: skip
            torch.testing.assert_close(together.mel_postnet[i, :, :num_frames], alone.mel_postnet[0])
            torch.testing.assert_close(together.gate[i, :num_frames], alone.gate[0])
            torch.testing.assert_close(together.alignment[i, :num_frames, :num_symbols], alone.alignment[0])
            assert together.mel_postnet[i, :, num_frames:].eq(0).all()
            assert together.alignment[i, :, num_symbols:].eq(0).all()


def test_padding_changes_nothing_free_running() -> None:
    model = model_of(TINY).eval()
    text, text_lengths, _, _ = ragged_batch()
    together = model.infer(text, text_lengths)
    for i, num_symbols in enumerate(text_lengths):
        alone = model.infer(text[i : i + 1, :num_symbols], text_lengths[i : i + 1])
        num_frames = alone.mel_lengths[0]
        assert together.mel_lengths[i] == num_frames
        torch.testing.assert_close(together.mel_postnet[i, :, :num_frames], alone.mel_postnet[0])


def test_normalized_mels() -> None:
    """With mel_mean and mel_std, raw mels give what the same model gives for normalized ones."""
    plain = model_of(TINY).eval()
    model = model_of(dataclasses.replace(TINY, mel_mean=-5.0, mel_std=2.0)).eval()
    text, text_lengths, mel, mel_lengths = ragged_batch()
    inside = lengths_to_mask(mel_lengths, mel.shape[2]).unsqueeze(1)
    with torch.no_grad():
        expected = plain(text, text_lengths, mel, mel_lengths)
        found = model(text, text_lengths, 2 * mel - 5, mel_lengths)
    for name in ("mel", "mel_postnet"):
        torch.testing.assert_close(getattr(found, name), (2 * getattr(expected, name) - 5) * inside)
    torch.testing.assert_close(found.alignment, expected.alignment)
    expected, found = plain.infer(text, text_lengths), model.infer(text, text_lengths)
    inside = lengths_to_mask(expected.mel_lengths, expected.mel_postnet.shape[2]).unsqueeze(1)
    torch.testing.assert_close(found.mel_postnet, (2 * expected.mel_postnet - 5) * inside)


def test_postfilter_restores_the_variance() -> None:
    """Gains measured on smoothed mels restore the variance of other smoothed mels; unmeasured, it is the identity."""
    torch.manual_seed(0)
    postfilter, basis = Postfilter(16), cosines(16)
    torch.testing.assert_close(basis @ basis.T, torch.eye(16))
    recorded, others = 2 * torch.randn(16, 4000) - 5, 2 * torch.randn(16, 4000) - 5
    share = torch.linspace(1, 0.4, 16).unsqueeze(1)  # fraction of each coefficient's deviation that smoothing keeps

    def smoothed(mel: Tensor) -> Tensor:
        return basis.T @ (share * (basis @ (mel + 5))) - 5

    assert torch.equal(postfilter(others), others)
    postfilter.measure(smoothed(recorded), recorded)
    torch.testing.assert_close(postfilter.gain, 1 / share[:, 0], rtol=0.05, atol=0)
    torch.testing.assert_close(postfilter(smoothed(others)), others, rtol=0, atol=0.5)
    assert (smoothed(others) - others).abs().max() > 3
    torch.testing.assert_close(postfilter(others[None])[0], postfilter(others))
    postfilter.strength = 0.0
    assert torch.equal(postfilter(others), others)
    postfilter.strength = 1.0
    half = postfilter.bfloat16()(others.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), postfilter.float()(others), rtol=0.05, atol=0.1)
    postfilter.measure(torch.full((16, 5), -5.0), recorded)  # constant mels of a model that has learned nothing
    assert postfilter.gain.max() == MAX_GAIN


def test_the_postfilter_sharpens_synthesis() -> None:
    model = model_of(TINY).eval()
    text, text_lengths, _, _ = ragged_batch()
    plain = model.infer(text, text_lengths)
    model.postfilter.gain.uniform_(1, 2)
    sharp = model.infer(text, text_lengths)
    inside = lengths_to_mask(plain.mel_lengths, plain.mel_postnet.shape[2]).unsqueeze(1)
    assert not torch.equal(sharp.mel_postnet, plain.mel_postnet)
    torch.testing.assert_close(sharp.mel_postnet, model.postfilter(plain.mel_postnet) * inside)


def test_own_frames_in_place_of_the_teachers() -> None:
    model = model_of(dataclasses.replace(TINY, n_frames_per_step=2, p_own_frames=0.25)).train()
    torch.manual_seed(0)
    text, lengths, mel = torch.randint(1, 148, (8, 9)), torch.full((8,), 9), torch.randn(8, 20, 100)
    memory = model.encode(text, lengths)
    own = model.decoder(memory, lengths, mel)[0]
    mixed = model._with_own_frames(memory, lengths, mel, 0.25)
    assert not mixed.requires_grad
    from_teacher, from_model = ((mixed == frames).unflatten(2, (50, 2)).all(3).all(1) for frames in (mel, own))
    assert (from_teacher ^ from_model).all()  # per decoder step, never mixed within one
    assert 0.15 < from_model.float().mean() < 0.35
    mel_lengths = torch.full((8,), 100)
    teacher_forced = dataclasses.replace(model.config, p_own_frames=0.0)
    batch = (text, lengths, mel, mel_lengths)
    assert not torch.equal(model(*batch).mel, model_like(model, teacher_forced).train()(*batch).mel)
    assert torch.equal(model.eval()(*batch).mel, model_like(model, teacher_forced).eval()(*batch).mel)


def test_loss_ignores_padding() -> None:
    model = model_of(TINY).eval()
    text, text_lengths, mel, mel_lengths = ragged_batch()
    with torch.no_grad():
        loss = tacotron2_loss(model(text, text_lengths, mel, mel_lengths), mel, mel_lengths)["loss"]
        changed = torch.where(torch.arange(14) < mel_lengths[:, None, None], mel, torch.full_like(mel, 7.0))
        again = tacotron2_loss(model(text, text_lengths, changed, mel_lengths), changed, mel_lengths)["loss"]
    torch.testing.assert_close(loss, again)


@pytest.mark.parametrize("frames_per_step", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 3])
def test_trains_and_synthesizes(frames_per_step: int, batch: int) -> None:
    """Every parameter gets a gradient with any number of frames per step, also in a batch of one."""
    model = model_of(dataclasses.replace(TINY, n_frames_per_step=frames_per_step)).train()
    text, text_lengths, mel, mel_lengths = (x[:batch] for x in ragged_batch())
    output = model(text, text_lengths, mel, mel_lengths)
    assert output.mel_postnet.shape == mel.shape
    assert output.gate.shape == (batch, 14)
    assert output.alignment.shape == (batch, 14, 9)
    tacotron2_loss(output, mel, mel_lengths, frames_per_step)["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    speech = model.eval().infer(text, text_lengths, max_decoder_steps=5)
    assert speech.mel_postnet.shape[2] == speech.alignment.shape[1] == int(speech.mel_lengths.max())
    assert int(speech.mel_lengths.max()) <= 5 * frames_per_step


def test_gate_target_marks_the_last_step() -> None:
    assert gate_target(torch.tensor([4, 6]), 7, 1).tolist() == [[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]]
    assert gate_target(torch.tensor([4, 6]), 7, 3).tolist() == [[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1]]


def test_stop_frame_is_kept_and_rows_stop_independently(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame at which the gate opens is kept; only a row that reaches the limit is `truncated`."""
    model = model_of(TINY).eval()
    text, text_lengths, _, _ = ragged_batch()
    free = model.infer(text, text_lengths, 12)
    calls = iter(range(100))

    def gate(output: Tensor) -> Tensor:
        step = next(calls)  # the gate of row 0 opens in the third step, of row 1 in the fifth, of row 2 never
        return torch.tensor([[step - 1.5], [step - 3.5], [-1.0]])

    monkeypatch.setattr(model.decoder.gate_layer, "forward", gate)
    model.decoder.fused = False  # tests/test_free_running.py compares the packed decoder with this one
    speech = model.infer(text, text_lengths, 12)
    assert speech.mel_lengths.tolist() == [3, 5, 12]
    assert speech.truncated.tolist() == [False, False, True]
    torch.testing.assert_close(speech.mel_postnet[2], free.mel_postnet[2])
    assert speech.mel_postnet[0, :, 3:].eq(0).all()


def test_prenet_dropout_is_on_in_eval_mode() -> None:
    text, text_lengths, _, _ = ragged_batch()
    random = model_of(dataclasses.replace(TINY, prenet_dropout=0.5)).eval()
    assert not torch.equal(
        random.infer(text, text_lengths, 4).mel_postnet, random.infer(text, text_lengths, 4).mel_postnet
    )
    torch.manual_seed(3)
    first = random.infer(text, text_lengths, 4).mel_postnet
    torch.manual_seed(3)
    assert torch.equal(first, random.infer(text, text_lengths, 4).mel_postnet)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="n_frames_per_step=0"):
        Tacotron2Config(n_frames_per_step=0)
    with pytest.raises(UserError, match=r"encoder_kernel_size=4.*odd"):
        Tacotron2Config(encoder_kernel_size=4)
    with pytest.raises(UserError, match=r"mel_std=0.0 must be more than 0"):
        Tacotron2Config(mel_std=0.0)
