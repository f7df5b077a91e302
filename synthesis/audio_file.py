"""Audio files that grow while their audio is made: wav, flac and ogg."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import soundfile
import torch
from torch import Tensor

AudioFormat = Literal["wav", "flac", "ogg"]
AUDIO_SUFFIXES = tuple(f".{name}" for name in get_args(AudioFormat))

RATE = 22050  # of data without a header: libsndfile wants one
HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
LARGEST = 2**32 - 1  # bytes that a wav header can tell
BLOCK = 2**12  # samples that libsndfile gets at once: its Vorbis encoder puts them on the stack


class AudioFile(Protocol):
    """A new file of one channel. Samples outside [-1, 1] are clipped.

    `append` and `close` raise OSError if the disk is full. The file then holds what fitted; close it still.
    """

    num_samples: int

    def append(self, audio: Tensor) -> None:
        """audio (N)"""

    def close(self) -> None: ...


def create(path: Path, kind: AudioFormat, sample_rate: int) -> AudioFile:
    return WavFile(path, sample_rate) if kind == "wav" else EncodedFile(path, kind, sample_rate)


def in_16_bits(audio: Tensor) -> np.ndarray:
    """The samples as libsndfile rounds them in a wav."""
    encoded = io.BytesIO()
    samples = np.clip(audio.detach().float().cpu().numpy(), -1.0, 1.0)
    soundfile.write(encoded, samples, RATE, subtype="PCM_16", format="RAW")
    return np.frombuffer(encoded.getvalue(), dtype="<i2")


def wav_header(sample_rate: int, data_bytes: int) -> bytes:
    """The header of a wav with one channel of 16 bits."""
    riff_bytes = min(data_bytes + HEADER.size - 8, LARGEST)
    form = (b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    return HEADER.pack(b"RIFF", riff_bytes, b"WAVE", *form, b"data", data_bytes)


class WavFile:
    """16-bit wav, valid at any time."""

    def __init__(self, path: Path, sample_rate: int) -> None:
        self.sample_rate, self.num_samples = sample_rate, 0
        self.file = open(path, "w+b", buffering=0)  # noqa: SIM115 (closed by `close`)
        self._write_header()

    def append(self, audio: Tensor) -> None:
        data = in_16_bits(audio).tobytes()
        self.file.seek(HEADER.size + 2 * self.num_samples)
        try:
            written = 0
            while written < len(data):  # a full disk takes a part, then raises
                written += self.file.write(data[written:])
        finally:
            self.num_samples += written // 2
            self.file.truncate(HEADER.size + 2 * self.num_samples)
            self._write_header()

    def close(self) -> None:
        self.file.close()

    def scale(self, factor: float) -> None:
        """Multiply all samples by `factor`, in place and block by block."""
        for start in range(0, self.num_samples, BLOCK):
            count = min(BLOCK, self.num_samples - start)
            place = HEADER.size + 2 * start
            samples = np.frombuffer(os.pread(self.file.fileno(), 2 * count, place), dtype="<i2")
            scaled = (samples * factor).round().clip(-(2**15), 2**15 - 1).astype("<i2")
            os.pwrite(self.file.fileno(), scaled.tobytes(), place)

    def _write_header(self) -> None:
        size = min(2 * self.num_samples, LARGEST - HEADER.size)
        os.pwrite(self.file.fileno(), wav_header(self.sample_rate, size), 0)


def encode(source: Path, target: Path, kind: AudioFormat) -> None:
    """Write the audio of a wav to a new file of another format, block by block; if that fails, leave none."""
    try:
        with soundfile.SoundFile(source) as wav:
            file = create(target, kind, wav.samplerate)
            for block in wav.blocks(BLOCK, dtype="float32"):
                file.append(torch.from_numpy(block))
            file.close()
    except BaseException:
        target.unlink(missing_ok=True)
        raise


class EncodedFile:
    """16-bit FLAC, or Ogg Vorbis. Until it is closed, players read it up to its last whole block."""

    def __init__(self, path: Path, kind: AudioFormat, sample_rate: int) -> None:
        self.num_samples = 0
        self.sink = _Sink(path)
        subtype = "PCM_16" if kind == "flac" else "VORBIS"
        self.encoder = soundfile.SoundFile(self.sink, "w", sample_rate, 1, subtype, format=kind.upper())
        self.sink.check()

    def append(self, audio: Tensor) -> None:
        samples = in_16_bits(audio)
        for start in range(0, len(samples), BLOCK):
            self.encoder.write(samples[start : start + BLOCK])
            self.sink.check()
            self.num_samples += len(samples[start : start + BLOCK])

    def close(self) -> None:
        self.encoder.close()
        self.sink.file.close()
        self.sink.check()


class _Sink:
    """The file that libsndfile writes to. Errors cannot pass through libsndfile: the sink keeps the first one, and
    drops what comes after it."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "w+b", buffering=0)  # noqa: SIM115 (closed by EncodedFile.close)
        self.error: OSError | None = None
        self.is_raised = False

    def write(self, data: bytes) -> int:
        try:
            written = 0
            while written < len(data) and self.error is None:  # a full disk takes a part, then raises
                written += self.file.write(data[written:])
        except OSError as error:
            self.error = error
        return len(data)

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def flush(self) -> None:
        pass

    def check(self) -> None:
        """Raise the error of a write, once."""
        if self.error is not None and not self.is_raised:
            self.is_raised = True
            raise self.error
