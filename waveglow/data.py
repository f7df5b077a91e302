"""Dataset of random segments of audio and their mels."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.audio import load_audio
from common.config import AudioConfig, DataConfig
from common.data.batching import Draw
from common.data.filelist import read_filelist
from common.data.mels import MEL_SUFFIXES, MelDirectory
from common.errors import UserError


class WaveGlowBatch(NamedTuple):
    """One batch of segments."""

    mel: Tensor  # (B, n_mels, ceil(N / hop_length))
    audio: Tensor  # (B, N)


class SegmentDataset:
    """A dataset with (mel (n_mels, T), audio (N)) of one segment per clip; seed, epoch and clip determine its position.

    A segment starts at the center of a mel frame, so that the prepared mel can be cut instead of computed again. Clips
    shorter than a segment are padded with silence. N is data.segment_length, rounded up to a multiple of `n_group`.
    """

    def __init__(self, filelist: str, data: DataConfig, audio: AudioConfig, seed: int, n_group: int = 1) -> None:
        self.clips = read_filelist(filelist, data.root, data.follow_links)[: data.limit]
        mels = [clip for clip in self.clips if clip.suffix in MEL_SUFFIXES]
        if mels:
            raise UserError(f"{mels[0].where}: {mels[0].path} is a mel; WaveGlow needs a filelist of audio files")
        self.mels = MelDirectory(data.mel_dir)
        self.frames = self.mels.check(self.clips, audio)
        self.data, self.audio, self.seed = data, audio, seed
        self.segment_length = math.ceil(data.segment_length / n_group) * n_group
        self.segment_frames = math.ceil(self.segment_length / audio.hop_length)
        self.lengths = [self.segment_frames] * len(self.clips)

    def __len__(self) -> int:
        return len(self.clips)

    def start_of_clip(self, index: int, seconds: float) -> tuple[Tensor, Tensor]:
        """Return (mel (n_mels, T), audio (N)) of the first `seconds` of a clip."""
        num_frames = math.ceil(seconds * self.audio.sample_rate / self.audio.hop_length)
        mel = np.array(self.mels.load(self.clips[index])[:, :num_frames])
        num_samples = mel.shape[1] * self.audio.hop_length
        audio = self._load_audio(index, 0, num_samples)
        return torch.from_numpy(mel), torch.from_numpy(audio)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        index, epoch = draw
        rng = np.random.default_rng((self.seed, epoch, index))
        # A clip ends less than one hop after the center of its last frame, so a segment must not include that frame.
        first = int(rng.integers(max(self.frames[index] - self.segment_frames, 1)))
        mel = self.mels.load(self.clips[index])[:, first : first + self.segment_frames]
        num_samples = self.segment_length
        start = first * self.audio.hop_length
        audio = self._load_audio(index, start, num_samples)
        missing = self.segment_frames - mel.shape[1]
        mel = np.pad(mel, ((0, 0), (0, missing)), constant_values=math.log(self.audio.log_floor))
        return torch.from_numpy(mel), torch.from_numpy(np.pad(audio, (0, num_samples - len(audio))))

    def _load_audio(self, index: int, start: int, num_samples: int) -> np.ndarray:
        clip = self.clips[index]
        audio = load_audio(clip.file, self.audio, self.data.convert_audio, start, num_samples)
        self.mels.check_clip(clip)
        return audio


def collate(items: list[tuple[Tensor, Tensor]]) -> WaveGlowBatch:
    mels, audios = zip(*items, strict=True)
    return WaveGlowBatch(torch.stack(mels), torch.stack(audios))
