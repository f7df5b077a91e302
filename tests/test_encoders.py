"""The encoders of the speech server: what a player decodes is the audio, early, whole and the same on any road."""

from __future__ import annotations

import gc
import io
import resource
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
import soundfile
import soxr
import torch
from torch import Tensor

from common.errors import UserError
from synthesis.audio_file import in_16_bits
from synthesis.server.encoders import CONTENT_TYPES, PCM_RATE, SpeechFormat, encoder
from tests.helpers.commands import run_process

FORMATS: tuple[SpeechFormat, ...] = get_args(SpeechFormat)
LOSSLESS = ("flac", "wav", "pcm")
RATE = 22050
SILENCE_BEFORE = {"mp3": 1105, "aac": 1024}  # samples, see the table in encoders.py


def speech(seconds: float) -> Tensor:
    """Harmonics of a pitch that moves, and noise, which rise and fall like syllables."""
    time = torch.arange(int(RATE * seconds), dtype=torch.float64) / RATE
    phase = 2 * torch.pi * (120 * time + 5 * torch.sin(4 * time))
    voiced = sum((torch.sin(k * phase + k * k) / k for k in range(1, 20)), torch.zeros(()))
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    return ((0.3 * voiced + 0.005 * noise) * torch.sin(2 * torch.pi * 3 * time).abs()).float()


def encode(kind: SpeechFormat, audio: Tensor, size: int = 10_000, sample_rate: int = RATE) -> bytes:
    stream = encoder(kind, sample_rate)
    parts = [stream.feed(part) for part in audio.split(size)] if len(audio) else []
    return b"".join(parts) + stream.close()


def decode(kind: SpeechFormat, data: bytes) -> tuple[np.ndarray, int]:
    """(N) float32 and the sample rate, by the libraries that most players use. They skip what the file tells to."""
    if kind == "pcm":
        return np.frombuffer(data, "<i2") / np.float32(2**15), PCM_RATE
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    samples = np.concatenate(frames) if frames else np.zeros(0, np.float32)
    return (samples / np.float32(2**15) if samples.dtype == np.int16 else samples), rate


@pytest.mark.parametrize("sample_rate", [22050, 23000, 48000])
@pytest.mark.parametrize("kind", FORMATS)
def test_players_decode_the_audio(kind: SpeechFormat, sample_rate: int) -> None:
    """All of it, and nothing between silence that the format requires."""
    audio = speech(2.04)  # it does not end in silence
    found, rate = decode(kind, encode(kind, audio, sample_rate=sample_rate))
    expected = soxr.resample(audio.numpy(), sample_rate, rate)
    start = SILENCE_BEFORE.get(kind, 0)
    assert np.abs(found[: start - 200 if start else 0]).max(initial=0) < 0.05
    if kind not in SILENCE_BEFORE:
        assert abs(len(found) - len(expected)) <= 2  # opus was resampled in between
    aligned = found[start : start + len(expected)]
    expected = expected[: len(found) - start]
    assert len(expected) >= len(audio) * rate // sample_rate - 2
    assert np.corrcoef(aligned, expected)[0, 1] > (0.99 if kind not in LOSSLESS else 0.999999)
    assert np.corrcoef(aligned[-400:], expected[-400:])[0, 1] > 0.95  # up to the last sample
    assert np.abs(found[start + len(expected) + 1000 :]).max(initial=0) < 0.05


@pytest.mark.parametrize(("kind", "sample_rate", "expected"), [
    ("mp3", 22050, 22050), ("aac", 22050, 22050), ("flac", 22050, 22050), ("wav", 22050, 22050),
    ("mp3", 44000, 44100), ("aac", 23000, 24000), ("flac", 23000, 23000), ("mp3", 96000, 48000),
])  # fmt: skip
def test_the_rate_is_the_voices_or_the_next(kind: SpeechFormat, sample_rate: int, expected: int) -> None:
    assert decode(kind, encode(kind, speech(0.3), sample_rate=sample_rate))[1] == expected


def test_lossless_formats_have_the_samples_of_a_wav_file() -> None:
    audio = torch.cat((speech(1), torch.tensor([3.0, -3.0] * 4)))
    expected = in_16_bits(audio)
    data = encode("wav", audio)
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        assert np.array_equal(np.frombuffer(file.readframes(file.getnframes()), "<i2"), expected)
    assert np.array_equal(soundfile.read(io.BytesIO(data), dtype="int16")[0], expected)
    assert np.array_equal(decode("flac", encode("flac", audio))[0], expected / np.float32(2**15))
    resampled = torch.from_numpy(soxr.resample(audio.clamp(-1, 1).numpy(), RATE, PCM_RATE))
    assert np.array_equal(np.frombuffer(encode("pcm", audio), "<i2"), in_16_bits(resampled))


@pytest.mark.parametrize("kind", FORMATS)
def test_the_bytes_do_not_depend_on_the_cuts(kind: SpeechFormat) -> None:
    audio = speech(5)
    expected = encode(kind, audio, 100_000)
    assert len(expected) > 20_000
    for size in (977, 4096):
        assert encode(kind, audio, size) == expected
    short = audio[:3000]
    assert encode(kind, short, 1) == encode(kind, short)
    assert encode(kind, torch.cat((short, short[:0])), 3000) == encode(kind, short)


@pytest.mark.parametrize("num_samples", [0, 1, 2, 400, 1023, 2401])
@pytest.mark.parametrize("kind", FORMATS)
def test_short_streams_are_valid(kind: SpeechFormat, num_samples: int) -> None:
    for start in range(0, 10_000, 500):  # short AAC is taken for other formats, depending on its content
        found, rate = decode(kind, encode(kind, speech(1)[start : start + num_samples]))
        if kind in ("wav", "pcm"):
            assert len(found) == round(num_samples * rate / RATE)
        elif kind in SILENCE_BEFORE:
            assert len(found) >= num_samples + SILENCE_BEFORE[kind]
        else:
            assert abs(len(found) - max(num_samples, 1) * rate / RATE) <= 1.5


@pytest.mark.parametrize(("kind", "max_delay_seconds"), [
    ("mp3", 0.2), ("opus", 0.22), ("aac", 0.15), ("flac", 0.22), ("wav", 0), ("pcm", 0.08),
])  # fmt: skip
def test_bytes_come_early(kind: SpeechFormat, max_delay_seconds: float) -> None:
    """What has been written at any time decodes to all but the last tenths of a second that were fed."""
    audio = speech(2)
    stream = encoder(kind, RATE)
    data = b""
    for number, part in enumerate(audio.split(1000), start=1):
        data += stream.feed(part)
        if number in (8, 20, 40):
            found, rate = decode(kind, data)
            num_seconds = (len(found) - SILENCE_BEFORE.get(kind, 0)) / rate
            assert num_seconds >= 1000 * number / RATE - max_delay_seconds - 1e-3


@pytest.mark.parametrize("kind", FORMATS)
def test_memory_does_not_grow_with_the_stream(kind: SpeechFormat) -> None:
    stream, audio = encoder(kind, RATE), speech(10)
    num_bytes = sum(len(stream.feed(audio)) for _ in range(3))
    before = resident_bytes()
    num_bytes = sum(len(stream.feed(audio)) for _ in range(10))
    assert num_bytes > 10 * 60_000
    assert resident_bytes() - before < num_bytes / 4


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("kind", FORMATS)
def test_encoders_without_close_leave_nothing(kind: SpeechFormat) -> None:
    audio = speech(0.2)

    def drop(count: int) -> int:
        for _ in range(count):
            encoder(kind, RATE).feed(audio)
        return resident_bytes()

    gc.disable()  # nothing may wait for it
    try:
        before = drop(30)
        assert drop(150) - before < 150 * 5000  # one of mp3 or aac holds 60,000 or more, one of flac a million
    finally:
        gc.enable()


def test_threads_give_the_same_bytes() -> None:
    audio = speech(2)
    alone = {kind: encode(kind, audio) for kind in FORMATS}
    jobs = [kind for _ in range(4) for kind in FORMATS]
    with ThreadPoolExecutor(len(jobs)) as threads:
        found = list(threads.map(lambda kind: encode(kind, audio, 500), jobs))
    assert [data == alone[kind] for kind, data in zip(jobs, found, strict=True)] == [True] * len(jobs)


def test_an_encoder_starts_no_thread_and_opens_no_file() -> None:
    code = (
        "import os, torch\n"
        "from synthesis.server.encoders import CONTENT_TYPES, encoder\n"
        "def held(): return [len(os.listdir(f'/proc/self/{name}')) for name in ('task', 'fd')]\n"
        "before = held(); streams = [encoder(kind, 22050) for kind in CONTENT_TYPES]\n"
        "data = [stream.feed(torch.zeros(9000)) for stream in streams]; print(before == held(), all(data))\n"
    )
    assert run_process("-c", code).stdout.split() == ["True", "True"]


def test_mistakes() -> None:
    with pytest.raises(UserError, match=r"'ogg' is unknown.*mp3, opus"):
        encoder("ogg", RATE)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="did you mean 'flac'"):
        encoder("flc", RATE)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="0 Hz"):
        encoder("mp3", 0)


@pytest.mark.parametrize("kind", FORMATS)
def test_after_the_end(kind: SpeechFormat) -> None:
    stream = encoder(kind, RATE)
    with pytest.raises(ValueError, match="not a number"):
        stream.feed(torch.tensor([0.0, torch.nan]))
    assert stream.feed(torch.tensor([0.5]).requires_grad_()) + stream.close() == encode(kind, torch.tensor([0.5]))
    assert stream.close() == b""
    with pytest.raises(ValueError, match="closed"):
        stream.feed(torch.zeros(1))


def test_each_format_has_a_content_type() -> None:
    assert tuple(CONTENT_TYPES) == FORMATS
