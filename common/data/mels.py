"""Prepared mels on disk: one float32 .npy (n_mels, T) for each clip, and the audio config of all mels.

    MEL_DIR/audio.json      the AudioConfig of all mels
    MEL_DIR/manifest.jsonl  a line for each finished mel: clip, frames, and the clip's size and modification time
    MEL_DIR/<clip>.npy      named after the clip in the filelist: wavs/a.wav.npy

A row of a filelist may also name a mel (.npy, or the reference's .pt); such mels are read as they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.config import AudioConfig
from common.data.filelist import Clip, raise_problems
from common.errors import UserError
from common.files import replacing, write_text

AUDIO_FILE, MANIFEST_FILE = "audio.json", "manifest.jsonl"
MEL_SUFFIXES = (".npy", ".pt")


@dataclass(frozen=True)
class Entry:
    """One line of the manifest."""

    clip: str
    frames: int
    size: int  # bytes of the clip
    mtime_ns: int


def audio_differences(
    ours: AudioConfig, theirs: AudioConfig | Mapping[str, object], owner: str = "stored"
) -> list[str]:
    """ "audio.key is x, stored y" for each key that differs; `owner` is the word for the other value."""
    own = dataclasses.asdict(ours)
    other = dataclasses.asdict(theirs) if isinstance(theirs, AudioConfig) else theirs
    keys = sorted(own.keys() | other.keys())
    return [f"audio.{k} is {own.get(k)}, {owner} {other.get(k)}" for k in keys if own.get(k) != other.get(k)]


class MelDirectory:
    """The mels in one directory; `entries` are the finished ones, by clip."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.entries: dict[str, Entry] = {}
        self.audio: dict[str, object] | None = None
        if (self.path / AUDIO_FILE).is_file():
            with contextlib.suppress(ValueError):  # a damaged file counts as missing: all mels are computed again
                stored = json.loads((self.path / AUDIO_FILE).read_text(encoding="utf-8"))
                self.audio = stored if isinstance(stored, dict) else None
        if (self.path / MANIFEST_FILE).is_file():
            for line in (self.path / MANIFEST_FILE).read_text(encoding="utf-8", errors="replace").splitlines():
                # A killed run may leave half a line; its mel is computed again.
                with contextlib.suppress(ValueError, TypeError):
                    entry = Entry(**json.loads(line))
                    self.entries[entry.clip] = entry

    @staticmethod
    def mel_path(directory: Path, clip: str) -> Path:
        return directory / f"{clip}.npy"  # keeps the suffix, because x.wav and x.flac are two clips

    def is_fresh(self, clip: Clip) -> bool:
        """True if the mel of `clip` exists and the clip has not changed since."""
        entry = self.entries.get(clip.path)
        stat = clip.file.stat()
        return (
            entry is not None
            and (entry.size, entry.mtime_ns) == (stat.st_size, stat.st_mtime_ns)
            and self.mel_path(self.path, clip.path).is_file()
        )

    def reset(self, audio: AudioConfig) -> None:
        """Start again with another audio config: all mels count as stale and are replaced one by one."""
        self.entries, self.audio = {}, dataclasses.asdict(audio)
        (self.path / MANIFEST_FILE).unlink(missing_ok=True)
        write_text(self.path / AUDIO_FILE, json.dumps(self.audio, indent=2) + "\n")

    def add(self, entry: Entry) -> None:
        self.entries[entry.clip] = entry
        with open(self.path / MANIFEST_FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(entry)) + "\n")

    def compact(self) -> None:
        """Rewrite the manifest with one line for each clip."""
        lines = [json.dumps(dataclasses.asdict(entry)) + "\n" for entry in self.entries.values()]
        write_text(self.path / MANIFEST_FILE, "".join(lines))

    @classmethod
    def save(cls, directory: Path, clip: str, mel: np.ndarray) -> None:
        """Write the mel of `clip`, complete or not at all."""
        path = cls.mel_path(directory, clip)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not durable: flushing takes longer than computing the mel, which is computed again after a power failure.
        with replacing(path, durable=False) as temporary, open(temporary, "wb") as file:
            np.save(file, mel)

    def check(self, clips: list[Clip], audio: AudioConfig) -> list[int]:
        """The number of frames of each mel. Raise a UserError if one is missing, stale or of another audio config."""
        prepared = [clip for clip in clips if clip.file.suffix not in MEL_SUFFIXES]
        if prepared and self.audio is None:
            raise UserError(
                f"data.mel_dir={self.path}: holds no prepared mels ({AUDIO_FILE} is missing); {_prepare(clips)}"
            )
        if prepared and (differences := audio_differences(audio, self.audio or {})):
            changed = [f"audio.{k}={v}" for k, v in dataclasses.asdict(audio).items() if (self.audio or {}).get(k) != v]
            raise UserError(
                f"data.mel_dir={self.path}: the mels were made with another audio config: {'; '.join(differences)}; "
                f"use that config, or make a second set: {_prepare(clips)} data.mel_dir=OTHER {' '.join(changed)}, and "
                "train with data.mel_dir=OTHER"
            )
        missing = [clip for clip in prepared if not self.is_fresh(clip)]
        if missing:
            raise UserError(
                f"data.mel_dir={self.path}: {len(missing)} of {len(prepared)} mels are missing or older than their "
                f"clip, the first for {missing[0].path}; {_prepare(clips)}"
            )
        frames, problems = [], []
        for clip in clips:
            if clip.file.suffix not in MEL_SUFFIXES:
                frames.append(self.entries[clip.path].frames)
                continue
            try:
                shape = self.load(clip).shape
            except UserError as error:
                problems.append(str(error))
                continue
            if len(shape) != 2 or shape[0] != audio.n_mels or shape[1] == 0:
                problems.append(f"{clip.where}: {clip.file} has the shape {tuple(shape)}, not ({audio.n_mels}, frames)")
            frames.append(shape[-1])
        raise_problems(problems)
        return frames

    def load(self, clip: Clip) -> np.ndarray:
        """The mel (n_mels, T) of a clip in float32, memory-mapped if the format allows it. It may be read-only."""
        file = clip.file if clip.file.suffix in MEL_SUFFIXES else self.mel_path(self.path, clip.path)
        try:
            if file.suffix == ".pt":
                mel: np.ndarray = torch.load(file, map_location="cpu", weights_only=True).numpy()
            else:
                mel = np.load(file, mmap_mode="r")
            return mel.astype(np.float32, copy=False)
        except Exception as error:  # errors of zip, pickle, header and size all mean the same to the user
            cure = "replace it or remove its row" if file == clip.file else f"remove it and {_prepare([clip])}"
            raise UserError(f"{clip.where}: {file} is not a readable mel ({str(error)[:80]}); {cure}") from error


def _prepare(clips: list[Clip]) -> str:
    """The command that computes the mels of these clips."""
    root = clips[0].file.parents[len(Path(clips[0].path).parts) - 1]
    return f"run: bash scripts/prepare_mels.sh {root}"
