"""Mels equal the reference's, Griffin-Lim reproduces them, and errors name the bad file."""

from itertools import product
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch

from common.audio import GriffinLim, LogMel, load_audio, mel_filterbank, save_audio
from common.config import AudioConfig
from common.errors import UserError
from tests.helpers.corpus import tone
from tests.helpers.golden import GOLDEN, golden

CONFIG = AudioConfig()


def test_golden_log_mel() -> None:
    audio = load_audio(GOLDEN / "LJ001-0002.flac", CONFIG)
    theirs = golden("mel_LJ001-0002.pt")["mel"].reshape(80, -1)
    mel = LogMel(CONFIG)(torch.from_numpy(audio).unsqueeze(0))[0]
    torch.testing.assert_close(mel, theirs, atol=2e-3, rtol=0)


def test_filterbank_is_librosas() -> None:
    for rate, n_fft, n_mels, fmin, fmax in product((8000, 22050, 48000), (1024, 2048), (20, 40), (0, 50), (3000, 4000)):
        config = AudioConfig(sample_rate=rate, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax)
        theirs = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax)
        ours = mel_filterbank(config)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
    with pytest.warns(UserWarning, match=r"\d+ of audio.n_mels=80 channels are empty.*audio.n_fft=512"):
        mel_filterbank(AudioConfig(sample_rate=48000, n_fft=512, win_length=512))


@pytest.mark.parametrize("num_samples", [1, 255, 256, 512, 513, 10_000])
def test_number_of_frames(num_samples: int) -> None:
    assert LogMel(CONFIG)(torch.zeros(2, num_samples)).shape == (2, 80, 1 + num_samples // 256)


def test_silence_is_the_floor() -> None:
    assert LogMel(CONFIG)(torch.zeros(1, 2048)).unique().tolist() == pytest.approx([-11.5129], abs=1e-4)


def test_loudness_shifts_the_log_mel() -> None:
    audio = torch.from_numpy(tone(0.5, 0)).unsqueeze(0)
    mel, louder = LogMel(CONFIG)(audio), LogMel(CONFIG)(2 * audio)
    heard = mel > -9
    torch.testing.assert_close(louder[heard] - mel[heard], torch.full_like(mel[heard], np.log(2)), atol=1e-3, rtol=0)


def test_griffin_lim_reproduces_the_mel() -> None:
    audio = torch.from_numpy(load_audio(GOLDEN / "LJ001-0002.flac", CONFIG))
    mel = LogMel(CONFIG)(audio.unsqueeze(0))[0]
    again = GriffinLim(CONFIG)(mel, seed=1)
    assert again.shape == (mel.shape[1] * 256,)
    difference = (LogMel(CONFIG)(again.unsqueeze(0))[0, :, : mel.shape[1]] - mel).abs()
    assert difference[mel > -5].mean() < 0.3  # the range is about 10
    assert torch.equal(again, GriffinLim(CONFIG)(mel, seed=1))


@pytest.mark.parametrize("num_frames", [1, 2, 5, 6, 40])
def test_griffin_lim_of_any_length(num_frames: int) -> None:
    for value in (-3.0, 100.0, float("nan")):
        audio = GriffinLim(CONFIG, num_iterations=2)(torch.full((80, num_frames), value))
        assert audio.shape == (num_frames * 256,)
        assert audio.isfinite().all()


def test_save_and_load(tmp_path: Path) -> None:
    audio = tone(0.1, 0)
    save_audio(tmp_path / "a.wav", torch.from_numpy(audio), 22050)
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav", CONFIG), audio, atol=1 / 32767)
    save_audio(tmp_path / "b.wav", torch.tensor([2.0, -2.0]), 22050)
    assert load_audio(tmp_path / "b.wav", CONFIG).tolist() == pytest.approx([1, -1], abs=1e-3)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_part_of_a_clip_equals_the_slice(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(0.5, 0), 22050)
    whole = load_audio(path, CONFIG)
    np.testing.assert_allclose(load_audio(path, CONFIG, start=3000, num_samples=777), whole[3000:3777], atol=1e-6)
    converted = load_audio(path, CONFIG, convert=True, start=3000, num_samples=777)
    np.testing.assert_allclose(converted, whole[3000:3777], atol=1e-6)


@pytest.mark.fault(16)
def test_other_formats_are_refused_or_converted(tmp_path: Path) -> None:
    stereo = tmp_path / "stereo.wav"
    soundfile.write(stereo, np.stack([tone(0.5, 0)] * 2, 1), 44100)
    with pytest.raises(UserError, match=r"stereo.wav: the sample rate is 44100 Hz.*convert_audio=true"):
        load_audio(stereo, CONFIG)
    assert len(load_audio(stereo, CONFIG, convert=True)) == pytest.approx(0.25 * 22050, abs=2)
    soundfile.write(stereo, np.stack([tone(0.5, 0)] * 2, 1), 22050)
    with pytest.raises(UserError, match="2 channels"):
        load_audio(stereo, CONFIG)


@pytest.mark.fault(16)
def test_bad_files_are_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"not audio at all")
    with pytest.raises(UserError, match=r"bad.wav: not a readable audio file"):
        load_audio(bad, CONFIG)
    soundfile.write(bad, np.zeros(0, np.float32), 22050)
    with pytest.raises(UserError, match=r"bad.wav: no samples"):
        load_audio(bad, CONFIG)
    for value in (np.nan, np.inf, -3e38):
        soundfile.write(bad, np.full((100, 2), value, np.float32)[:, : 1 + (value < 0)], 22050, subtype="FLOAT")
        for convert in (False, True):
            with pytest.raises(UserError, match=r"bad.wav: holds samples that are NaN or infinite"):
                load_audio(bad, CONFIG, convert)


@pytest.mark.fault(16)
def test_headers_that_lie_take_no_memory(tmp_path: Path) -> None:
    bad = tmp_path / "bad.flac"
    soundfile.write(bad, tone(0.5, 0), 22050)
    content = bytearray(bad.read_bytes())
    content[21] |= 0x0F  # with the next 4 bytes, the number of samples: 2**36, 256 GB
    content[22:26] = b"\xff" * 4
    bad.write_bytes(content)
    soundfile.write(tmp_path / "slow.wav", tone(0.5, 0), 1)  # 11,025 seconds
    for convert in (False, True):
        with pytest.raises(UserError, match=r"bad.flac: 68719476735 samples, more than"):
            load_audio(bad, CONFIG, convert)
    with pytest.raises(UserError, match="a sample rate of 1 Hz cannot be converted"):
        load_audio(tmp_path / "slow.wav", CONFIG, convert=True)


@pytest.mark.fault(16)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory in Linux's /proc")
def test_long_clips_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def megabytes(name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

    log_mel, audio = LogMel(CONFIG), torch.from_numpy(tone(1.0, 0)).repeat(240).unsqueeze(0)
    log_mel(audio[:, : 60 * 22050])
    before = megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    mel = log_mel(audio)
    assert megabytes("VmHWM") - before < 110  # in one piece: 220
    monkeypatch.setattr("common.audio.FRAMES_AT_ONCE", 10**9)
    torch.testing.assert_close(log_mel(audio), mel)
