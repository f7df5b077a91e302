"""A wav file that grows while its audio is made, and is valid at any time."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import soundfile
from torch import Tensor

HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
BLOCK = 2**20  # samples
LARGEST = 2**32 - 1  # bytes that a header can tell


class WavFile:
    """Writes 16-bit audio of one channel to a new file. Samples outside [-1, 1] are clipped.

    `append` raises OSError if the disk is full. The file then holds what fitted.
    """

    def __init__(self, path: Path, sample_rate: int) -> None:
        self.sample_rate, self.num_samples = sample_rate, 0
        self.file = open(path, "w+b", buffering=0)  # noqa: SIM115 (closed by `close`)
        self._write_header()

    def append(self, audio: Tensor) -> None:
        """audio (N)"""
        encoded = io.BytesIO()
        samples = np.clip(audio.detach().float().cpu().numpy(), -1.0, 1.0)
        soundfile.write(encoded, samples, self.sample_rate, subtype="PCM_16", format="RAW")
        data = encoded.getvalue()
        self.file.seek(HEADER.size + 2 * self.num_samples)
        try:
            written = 0
            while written < len(data):  # a full disk takes a part, then raises
                written += self.file.write(data[written:])
        finally:
            self.num_samples += written // 2
            self.file.truncate(HEADER.size + 2 * self.num_samples)
            self._write_header()

    def scale(self, factor: float) -> None:
        """Multiply all samples by `factor`, in place and block by block."""
        for start in range(0, self.num_samples, BLOCK):
            count = min(BLOCK, self.num_samples - start)
            place = HEADER.size + 2 * start
            samples = np.frombuffer(os.pread(self.file.fileno(), 2 * count, place), dtype="<i2")
            scaled = (samples * factor).round().clip(-(2**15), 2**15 - 1).astype("<i2")
            os.pwrite(self.file.fileno(), scaled.tobytes(), place)

    def close(self) -> None:
        self.file.close()

    def _write_header(self) -> None:
        size = min(2 * self.num_samples, LARGEST - HEADER.size)
        rate = self.sample_rate
        header = HEADER.pack(
            b"RIFF", size + HEADER.size - 8, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", size
        )
        os.pwrite(self.file.fileno(), header, 0)
