"""WaveGlow: the reference's numbers, inverse(forward) = identity, the losses, the denoiser, the mel match."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from common.audio import LogMel, load_audio
from common.config import AudioConfig, TrainConfig
from common.errors import UserError
from common.schema import from_dict
from inference import load_model
from tests.helpers.commands import composed
from tests.helpers.golden import GOLDEN, golden, golden_path
from tests.helpers.waveglow import randomize_couplings
from train import build_task
from waveglow.data import WaveGlowBatch
from waveglow.denoiser import Denoiser
from waveglow.gate import Gate
from waveglow.loss import spectral_loss, waveglow_loss
from waveglow.mdct import inverse_mdct, mdct
from waveglow.mel_match import MelMatch
from waveglow.model import WaveGlow, WaveGlowConfig, WaveGlowOutput
from waveglow.task import WaveGlowObjective, WaveGlowOptions

TINY = WaveGlowConfig(n_mel_channels=20, n_flows=6, n_early_every=2, n_layers=2, n_channels=8)


SMALL = WaveGlowConfig(
    n_mel_channels=20, n_group=32, n_flows=4, n_early_every=2, n_early_size=4, n_layers=3, n_channels=8, separable=True,
    encoder_dim=6, mdct=True,
)  # fmt: skip


def golden_model(name: str = "dle_waveglow.pt") -> WaveGlow:
    model = load_model(golden_path(name))
    assert isinstance(model, WaveGlow)
    return model


def lively_model(config: WaveGlowConfig = TINY) -> WaveGlow:
    """A model with random couplings. In a new model their `end` layers are zero, so they change nothing."""
    torch.manual_seed(0)
    model = WaveGlow(config)
    randomize_couplings(model)
    return model


@pytest.mark.parametrize(("channels", "count"), [(512, 268_294_760), (256, 87_879_272)])
def test_parameter_count(channels: int, count: int) -> None:
    with torch.device("meta"):
        model = WaveGlow(WaveGlowConfig(n_channels=channels))
    assert sum(p.numel() for p in model.parameters()) == count
    assert len(model.state_dict()) == 938


def test_golden_forward_and_loss() -> None:
    io = golden("dle_waveglow_io.pt")
    model = golden_model()
    output = model(io["mel"], io["audio"])
    torch.testing.assert_close(output.z, io["z"], atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.stack(output.log_det), io["log_det_W"], atol=2e-3, rtol=1e-5)
    for ours, theirs in zip(output.log_s, io["log_s_every_4th"], strict=True):
        torch.testing.assert_close(ours[:, :, ::4], theirs, atol=1e-4, rtol=0)
    loss = waveglow_loss(output)
    torch.testing.assert_close(loss, io["loss"])
    loss.backward()
    for name, parameter in model.named_parameters():
        expected = io["grad_norms"].get(name, io["grad_norms"].get(f"module.{name}"))
        assert float(parameter.grad.norm()) == pytest.approx(float(expected), rel=1e-4, abs=1e-6), name


def test_golden_audio_and_denoiser() -> None:
    io = golden("dle_waveglow_io.pt")
    model = golden_model()
    torch.testing.assert_close(model.infer(io["mel"], sigma=0.0), io["infer_sigma0"], atol=1e-4, rtol=0)
    denoiser = Denoiser(model)
    denoiser.bias = io["denoiser_bias"]
    ours = denoiser(io["denoise_in"], strength=0.1)
    torch.testing.assert_close(ours, io["denoise_out_strength_0.1"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("config", [TINY, SMALL])
def test_inverse_of_forward_is_identity(config: WaveGlowConfig) -> None:
    model = lively_model(config)
    mel, audio = torch.randn(2, 20, 3), 0.1 * torch.randn(2, 3 * 256)
    with torch.no_grad():
        z = model(mel, audio).z
    assert z.shape == (2, config.n_group, 3 * 256 // config.n_group)
    torch.testing.assert_close(model.infer(mel, sigma=1.0, z=z), audio, atol=1e-5, rtol=0)


@pytest.mark.parametrize("has_mdct", [False, True])
def test_log_determinants_equal_those_of_the_jacobian(has_mdct: bool) -> None:
    """log |det dz/dx| from autograd equals sum(log_s) + sum(log_det)."""
    config = WaveGlowConfig(
        n_mel_channels=4, hop_length=16, win_length=32, n_flows=4, n_early_every=2, n_channels=4, mdct=has_mdct
    )
    model = lively_model(config).double()
    mel, audio = torch.randn(1, 4, 1).double(), torch.randn(1, 16).double()
    jacobian = torch.autograd.functional.jacobian(lambda x: model(mel, x).z.flatten(), audio).squeeze(1)
    output = model(mel, audio)
    total = sum(s.sum() for s in output.log_s) + sum(output.log_det)
    torch.testing.assert_close(total.float(), torch.linalg.slogdet(jacobian)[1].float())


def test_the_mdct_and_its_inverse() -> None:
    """The MDCT is orthogonal, a tone has few large coefficients, and a single coefficient fades in and out."""
    x = torch.randn(2, 9, 32).double()
    y = mdct(x)
    torch.testing.assert_close(inverse_mdct(y), x)
    torch.testing.assert_close(y.square().sum((1, 2)), x.square().sum((1, 2)))
    torch.testing.assert_close(inverse_mdct(mdct(x[:, :1])), x[:, :1])  # a single group has nothing to overlap with
    tone = torch.sin(torch.pi / 32 * 7.5 * torch.arange(9 * 32).double()).view(1, 9, 32)
    energy = mdct(tone)[0, 2:-2].square().mean(0)
    assert energy.argmax().item() == 7
    assert energy.topk(4).values.sum() > 0.98 * energy.sum()
    one = torch.zeros(1, 4, 32).double()
    one[0, 1, 5] = 1
    wave = inverse_mdct(one).flatten()
    assert wave[:16].abs().max() < 1e-9 > wave[80:].abs().max()
    assert wave[16:18].abs().max() < 0.05 > wave[78:80].abs().max()  # no jump at either end
    assert wave.diff().abs().max() < 0.2  # and none between groups


def test_matching_the_mel() -> None:
    """The mel match restores the mel of speech whose level was changed at random per frame and band."""
    config = AudioConfig()
    audio = torch.from_numpy(load_audio(GOLDEN / "LJ001-0002.flac", config))
    mel = LogMel(config)(audio[None])[0]
    num_frames = len(audio) // 256
    mel, audio = mel[:, :num_frames], audio[: num_frames * 256]
    torch.manual_seed(0)
    spectrum = torch.stft(audio, 1024, 256, window=torch.hann_window(1024), return_complex=True)
    gain = 0.5 * torch.randn(27, spectrum.shape[1]).repeat_interleave(19, 0)
    worse = torch.istft(spectrum * gain.exp(), 1024, 256, window=torch.hann_window(1024), length=len(audio))
    match = MelMatch(config)

    def distance(found: Tensor) -> float:
        assert found.shape == audio.shape
        return (LogMel(config)(found[None])[0, :, :num_frames] - mel).abs().mean().item()

    errors = [distance(match(mel, worse, times)) for times in range(4)]
    assert errors[3] < errors[2] < errors[1] < errors[0]
    assert errors[3] < errors[0] / 3
    assert distance(match(mel, audio, 3)) < 0.02
    for frames in (1, 2, 5):
        assert match(torch.full((80, frames), 3.0), torch.randn(frames * 256), 2).isfinite().all()


def test_the_flow_works_on_the_coefficients() -> None:
    model = WaveGlow(dataclasses.replace(SMALL, n_early_every=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("convinv."):
                nn.init.dirac_(parameter)  # identity
        audio = torch.randn(2, 768)
        z = model(torch.randn(2, 20, 3), audio).z
    torch.testing.assert_close(z, mdct(audio.unflatten(1, (-1, 32))).transpose(1, 2))


@pytest.mark.parametrize("config", [TINY, SMALL])
def test_inverse_follows_the_weights(config: WaveGlowConfig) -> None:
    """The inverse is not stale after loading weights or changing the precision."""
    model, other = lively_model(config), lively_model(config)
    for convinv in other.convinv:
        torch.nn.init.orthogonal_(convinv.conv.weight.squeeze(2).data)
        convinv.conv.weight.data.mul_(1.3)
    mel, audio = torch.randn(1, 20, 3), 0.1 * torch.randn(1, 768)
    model.infer(mel)
    model.load_state_dict(other.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model.infer(mel, 1.0, z=model(mel, audio).z), audio, atol=1e-5, rtol=0)
        model.bfloat16()
        restored = model.infer(mel.bfloat16(), 1.0, z=model(mel.bfloat16(), audio.bfloat16()).z)
    assert restored.dtype == torch.bfloat16
    torch.testing.assert_close(restored.float(), audio, atol=0.1, rtol=0)
    model.float().load_state_dict(other.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model.infer(mel, 1.0, z=model(mel, audio).z), audio, atol=1e-5, rtol=0)


def test_negative_determinant_keeps_the_loss_finite() -> None:
    model = lively_model()
    model.convinv[0].conv.weight.data[0] *= -1
    loss = waveglow_loss(model(torch.randn(1, 20, 2), 0.1 * torch.randn(1, 512)))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_loss_by_hand() -> None:
    output = WaveGlowOutput(torch.full((1, 2, 2), 2.0), [torch.full((1, 1, 2), 0.5)], [torch.tensor(3.0)])
    assert waveglow_loss(output, sigma=1.0).item() == pytest.approx((16 / 2 - 1.0 - 3.0) / 4)
    assert waveglow_loss(output, sigma=2.0).item() == pytest.approx((16 / 8 - 1.0 - 3.0) / 4)


def test_new_model_preserves_volume_and_its_couplings_do_not_scale() -> None:
    model = WaveGlow(TINY)
    output = model(torch.randn(1, 20, 2), torch.randn(1, 512))
    assert all(log_s.eq(0).all() for log_s in output.log_s)
    assert all(abs(log_det.item()) < 1e-2 for log_det in output.log_det)


def test_audio_length_and_bad_input() -> None:
    model = lively_model()
    assert model.infer(torch.randn(2, 20, 5)).shape == (2, 5 * 256)
    with pytest.raises(ValueError, match="multiple of 8"):
        model(torch.randn(1, 20, 2), torch.randn(1, 509))
    with pytest.raises(ValueError, match="at most 512"):
        model(torch.randn(1, 20, 2), torch.randn(1, 520))
    with pytest.raises(UserError, match="leave 0 channels"):
        WaveGlowConfig(n_early_every=1, n_flows=5)


def test_denoiser_removes_the_bias() -> None:
    """Audio that is only the model's bias becomes much weaker, and strength 0 changes nothing."""
    model = lively_model()
    denoiser = Denoiser(model)
    hum = model.infer(torch.zeros(1, 20, 88), sigma=0.0)
    assert denoiser(hum, strength=1.0).norm() < 0.5 * hum.norm()
    torch.testing.assert_close(denoiser(hum, strength=0.0), hum, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_log_determinants_stay_in_float32(dtype: torch.dtype) -> None:
    model, mel, audio = lively_model(), torch.randn(2, 20, 3), 0.1 * torch.randn(2, 3 * 256)
    expected = model(mel, audio)
    with torch.autocast("cpu", dtype=dtype):
        output = model(mel, audio)
    assert {x.dtype for x in (*output.log_s, *output.log_det)} == {torch.float32}
    torch.testing.assert_close(waveglow_loss(output), waveglow_loss(expected), atol=0.02, rtol=0)
    waveglow_loss(output).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_gate_and_its_gradients() -> None:
    torch.manual_seed(0)
    x, wide = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 9, dtype=torch.float64)
    a, b = (x + wide[:, :6]).chunk(2, 1)
    torch.testing.assert_close(Gate.apply(x.clone(), wide[:, :6]), torch.tanh(a) * torch.sigmoid(b))
    inputs = (x.requires_grad_(), wide.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, wide: Gate.apply(1 * x, wide[:, :6]), inputs)


def test_checkpointed_activations_change_nothing_but_memory() -> None:
    model = lively_model(dataclasses.replace(TINY, n_channels=48))
    mel, audio = torch.randn(2, 20, 30), 0.1 * torch.randn(2, 30 * 256)
    results, kept = [], []
    for model.checkpoint_activations in (False, True):
        sizes: list[int] = []

        def record(x: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(record, lambda x: x):
            loss = waveglow_loss(model(mel, audio))
        results.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
        kept.append(sum(sizes))
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.equal(plain, checkpointed)
    assert kept[1] < kept[0] / 2


@pytest.mark.parametrize("config", [TINY, dataclasses.replace(TINY, kernel_size=5, n_layers=6), SMALL])
def test_the_packed_inverse_equals_the_convolutions(config: WaveGlowConfig) -> None:
    """Also for clips shorter than a layer's receptive field, and after a change of weights."""
    model = lively_model(config).eval()
    for num_frames in (1, 2, 9):
        torch.manual_seed(num_frames)
        mel = torch.randn(2, config.n_mel_channels, num_frames)
        z = torch.randn(2, config.n_group, num_frames * config.hop_length // config.n_group)
        audio = []
        for model.packed in (False, True):
            audio.append(model.infer(mel, 0.8, z))
        torch.testing.assert_close(audio[1], audio[0], atol=2e-5, rtol=1e-4)
        with torch.no_grad():  # the code path of GPUs
            condition = model.condition(mel, z.shape[2] * config.n_group)
            folded = model._invert(condition, z.transpose(1, 2) * 0.8, [wn.weights() for wn in model.WN])
        torch.testing.assert_close(folded, audio[0], atol=2e-5, rtol=1e-4)
        with torch.no_grad():
            model.WN[0].start.weight_g.mul_(1.5)


def test_int8_is_close_to_float32_where_it_pays() -> None:
    """Only products of at least 512 inputs are in int8. The rounding of 8 bits leaves 20 dB."""
    wide = WaveGlowConfig(n_channels=16, n_flows=2, n_layers=2, n_early_every=4)  # 3 * 16 + 8 * 80 inputs
    for config, is_rounded in ((SMALL, False), (wide, True)):
        model = lively_model(config).eval()
        mel = torch.randn(1, config.n_mel_channels, 6)
        z = torch.randn(1, config.n_group, 6 * config.hop_length // config.n_group)
        exact = model.infer(mel, 0.8, z)
        model.int8 = True
        rough = model.infer(mel, 0.8, z)
        assert torch.equal(rough, exact) != is_rounded
        assert (rough - exact).square().mean() < 0.01 * exact.square().mean()


def test_the_inverse_in_training_equals_infer() -> None:
    model = lively_model(SMALL)
    mel, audio = torch.randn(2, 20, 3), 0.1 * torch.randn(2, 3 * 256)
    noise = torch.randn(2, 32, 24)
    output = model(mel, audio, 0.7 * noise)
    torch.testing.assert_close(output.synthesized, model.infer(mel, 0.7, noise), atol=2e-5, rtol=1e-4)
    assert model(mel, audio).synthesized is None
    output.synthesized.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_spectral_loss_of_known_pairs() -> None:
    time = torch.arange(8192) / 22050
    tone = 0.1 * torch.sin(2 * torch.pi * 440 * time).unsqueeze(0)
    assert spectral_loss(tone, tone).item() == 0
    shifted = 0.1 * torch.cos(2 * torch.pi * 440 * time).unsqueeze(0)
    assert spectral_loss(shifted, tone) < 0.5  # nearly independent of the phase, except at the ends
    fifth = 0.1 * torch.sin(2 * torch.pi * 660 * time).unsqueeze(0)
    assert spectral_loss(fifth, tone) > 1
    assert spectral_loss(0.5 * tone, tone) < spectral_loss(0.1 * tone, tone) < spectral_loss(0 * tone, tone)


def test_the_likelihood_of_digital_silence_has_a_limit_with_dither() -> None:
    """Without, a flow spreads it more with every step, until a number overflows; in audio from editors it is common."""
    config = dataclasses.replace(TINY, n_flows=4)
    silence = WaveGlowBatch(torch.full((1, config.n_mel_channels, 1), -11.5), torch.zeros(1, 256))

    def losses(dither: float) -> list[float]:
        torch.manual_seed(0)
        model, generator = WaveGlow(config), torch.Generator().manual_seed(0)
        objective = WaveGlowObjective(WaveGlowOptions(dither=dither), config)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
        found = []
        for step in range(80):
            loss = objective(model, silence, step, generator).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    limit = 0.5 + math.log(1e-4)  # of noise of that deviation, which a Gaussian describes best
    assert min(losses(0.0)) < 1.5 * limit
    dithered = losses(1e-4)
    assert dithered == losses(1e-4)
    assert limit < min(dithered) < 0.6 * limit
    assert math.isfinite(sum(dithered))


def test_the_small_model_has_a_fiftieth_of_the_operations() -> None:
    """It needs less than a fiftieth of the operations of the 256-channel model for a second of audio."""
    counts = []
    for name in ("waveglow_small", "waveglow_256"):
        config = build_task(
            from_dict(TrainConfig, composed("train", f"model={name}", "data.root=x", "run_dir=x"))
        ).model_config
        model = WaveGlow(dataclasses.replace(config, n_flows=config.n_flows if name == "waveglow_small" else 1))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.randn(1, 80, 86), torch.randn(1, 86 * 256))
        counts.append(counter.get_total_flops() * (1 if name == "waveglow_small" else config.n_flows))
    assert counts[0] < counts[1] / 50


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory in Linux's /proc")
def test_mels_of_many_lengths_leave_no_memory_behind() -> None:
    def megabytes() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

    model = WaveGlow(WaveGlowConfig(n_channels=64, n_layers=2, n_flows=2)).eval()
    mel = torch.randn(1, 80, 100)
    for frames in (100, 9):
        model.infer(mel[:, :, :frames])
    before = megabytes()
    for frames in range(10, 70):
        model.infer(mel[:, :, :frames])
    assert megabytes() - before < 90  # with products of any number of rows: 210
