"""Dataset of clips as pairs of symbol ids and mel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from common.config import AudioConfig, DataConfig
from common.data.batching import Draw
from common.data.filelist import raise_problems, read_filelist
from common.data.mels import MelDirectory
from common.ops.padding import pad_last
from tacotron2.text import SYMBOLS, prepare, text_to_ids

PREPARED = 1000  # texts whose phonemes are found together


class Tacotron2Batch(NamedTuple):
    """One padded batch."""

    text: Tensor  # (B, L) symbol ids
    text_lengths: Tensor  # (B)
    mel: Tensor  # (B, n_mels, T)
    mel_lengths: Tensor  # (B) frames


class TextMelDataset:
    """A dataset of (ids (L), mel (n_mels, T)), one per clip of a filelist. Texts are cleaned once, at the start."""

    def __init__(self, filelist: str, data: DataConfig, audio: AudioConfig, symbols: Sequence[str] = SYMBOLS) -> None:
        self.clips = read_filelist(filelist, data.root, data.follow_links)[: data.limit]
        self.mels = MelDirectory(data.mel_dir)
        self.ids: list[list[int]] = []
        for start in range(0, len(self.clips), PREPARED):
            texts = [clip.text for clip in self.clips[start : start + PREPARED]]
            prepare(texts, data.cleaners, language=data.language)
            self.ids += [text_to_ids(text, data.cleaners, symbols, language=data.language) for text in texts]
        raise_problems(
            [
                f"{clip.where}: nothing is left of {clip.text[:40]!r} after {data.cleaners}; correct or remove the "
                "row, or set data.language, or add its letters to data.characters"
                for clip, ids in zip(self.clips, self.ids, strict=True)
                if not ids
            ]
        )
        self.lengths = self.mels.check(self.clips, audio)  # frames

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        index, _ = draw
        mel = self.mels.load(self.clips[index])
        return torch.tensor(self.ids[index]), torch.from_numpy(mel)


def collate(items: list[tuple[Tensor, Tensor]]) -> Tacotron2Batch:
    """Pad texts with symbol 0 and mels with zeros, to two positions or more: BatchNorm needs two for its statistics."""
    texts, mels = zip(*items, strict=True)
    return Tacotron2Batch(
        text=pad_last(texts, 0, min_length=2),
        text_lengths=torch.tensor([len(text) for text in texts]),
        mel=pad_last(mels, min_length=2),
        mel_lengths=torch.tensor([mel.shape[1] for mel in mels]),
    )
