"""Dataset of clips as pairs of symbol ids and mel."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.config import AudioConfig, DataConfig
from common.data.batching import Draw
from common.data.filelist import Clip, raise_problems, read_filelist
from common.data.mels import MelDirectory
from common.ops.padding import pad_last
from common.parallel import in_parallel
from common.threads import allowed_cores
from tacotron2.speaker_names import listed
from tacotron2.text import SYMBOLS, Encoded, encode, prepare, warn_dropped

PREPARED = 1000  # texts that are encoded together
MANY = 20_000  # texts; more of them are encoded by several processes

ALIKE = "write all lists alike, with scripts/prepare_filelists.py"


class Tacotron2Batch(NamedTuple):
    """One padded batch."""

    text: Tensor  # (B, L) symbol ids
    text_lengths: Tensor  # (B)
    mel: Tensor  # (B, n_mels, T)
    mel_lengths: Tensor  # (B) frames
    speaker: Tensor | None = None  # (B) ids, if the clips are of several


Item = tuple[Tensor, Tensor, int | None]


class Packed:
    """Lists of ids in one array, which stays small and which loader processes share."""

    def __init__(self, lists: Iterable[Sequence[int]]) -> None:
        values, ends = array("H"), array("q", [0])
        for one in lists:
            values.extend(one)
            ends.append(len(values))
        self.values, self.ends = np.frombuffer(values, np.uint16), np.frombuffer(ends, np.int64)

    @property
    def lengths(self) -> list[int]:
        lengths: list[int] = np.diff(self.ends).tolist()
        return lengths

    def __getitem__(self, index: int) -> list[int]:
        ids: list[int] = self.values[self.ends[index] : self.ends[index + 1]].tolist()
        return ids


class TextMelDataset:
    """A dataset of (ids (L), mel (n_mels, T), speaker), one per clip of a filelist. Texts are cleaned at the start.

    `speakers` are the names by id; None: those of the filelist. Raises UserError if a row has another one.
    """

    def __init__(
        self,
        filelist: str,
        data: DataConfig,
        audio: AudioConfig,
        symbols: Sequence[str] = SYMBOLS,
        speakers: Sequence[str] | None = None,
    ) -> None:
        every = read_filelist(filelist, data.root, data.follow_links)
        self.speakers = sorted({clip.speaker for clip in every} - {""}) if speakers is None else list(speakers)
        raise_problems(wrong_rows(filelist, every, self.speakers))
        self.clips = every[: data.limit]
        number = {name: number for number, name in enumerate(self.speakers)}
        self.speaker_ids = [number.get(clip.speaker) for clip in self.clips]
        self.mels = MelDirectory(data.mel_dir)
        self.ids = Packed(self._encoded(data, symbols))
        raise_problems(
            [
                f"{clip.where}: nothing is left of {clip.text[:40]!r} after {data.cleaners}; correct or remove the "
                "row, or set data.language, or add its letters to data.characters"
                for clip, length in zip(self.clips, self.ids.lengths, strict=True)
                if not length
            ]
        )
        self.lengths = self.mels.check(self.clips, audio)  # frames

    def _encoded(self, data: DataConfig, symbols: Sequence[str]) -> Iterator[list[int]]:
        texts = [clip.text for clip in self.clips]
        jobs = [(texts[start : start + PREPARED], data, symbols) for start in range(0, len(texts), PREPARED)]
        if len(texts) <= MANY or data.num_workers < 2:
            results: Iterable[list[Encoded]] = map(_encode, jobs)
        else:
            results = in_parallel(_encode, jobs, min(data.num_workers, allowed_cores()), f"x {PREPARED:,} texts")
        for encoded in itertools.chain.from_iterable(results):
            warn_dropped(encoded.dropped)
            yield encoded.ids

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, draw: Draw) -> Item:
        index, _ = draw
        mel = self.mels.load(self.clips[index])
        return torch.tensor(self.ids[index]), torch.from_numpy(mel), self.speaker_ids[index]


def _encode(job: tuple[list[str], DataConfig, Sequence[str]]) -> list[Encoded]:
    texts, data, symbols = job
    prepare(texts, data.cleaners, language=data.language)
    return [encode(text, data.cleaners, symbols, language=data.language) for text in texts]


def wrong_rows(filelist: str, clips: Sequence[Clip], speakers: Sequence[str]) -> list[str]:
    """A message for each row whose speaker is not one of `speakers`, or one in all if no row names a speaker."""
    if speakers and clips and not any(clip.speaker for clip in clips):
        return [f"filelist {filelist}: its rows name no speaker, those of the training list do: {ALIKE}"]
    if not speakers and any(clip.speaker for clip in clips):
        return [f"filelist {filelist}: its rows name speakers, those of the training list do not: {ALIKE}"]
    return [
        f"{clip.where}: the speaker {clip.speaker} is not one of the model's, which are {listed(speakers)}; the "
        "training list must have clips of each speaker"
        for clip in clips
        if speakers and clip.speaker not in speakers
    ]


def collate(items: list[Item]) -> Tacotron2Batch:
    """Pad texts with symbol 0 and mels with zeros, to two positions or more: BatchNorm needs two for its statistics."""
    texts, mels, speakers = zip(*items, strict=True)
    return Tacotron2Batch(
        text=pad_last(texts, 0, min_length=2),
        text_lengths=torch.tensor([len(text) for text in texts]),
        mel=pad_last(mels, min_length=2),
        mel_lengths=torch.tensor([mel.shape[1] for mel in mels]),
        speaker=None if None in speakers else torch.tensor(speakers),
    )
