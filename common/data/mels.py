"""Prepared mels on disk: one float32 .npy (n_mels, T) for each clip, and the audio config of all mels.

    MEL_DIR/audio.json      the AudioConfig of all mels
    MEL_DIR/manifest.jsonl  a line for each finished mel: clip, frames, and the clip's size and modification time
    MEL_DIR/<clip>.npy      named after the clip in the filelist: wavs/a.wav.npy

A row of a filelist may also name a mel (.npy, or the reference's .pt). Only the shape of such a mel is checked, because
the file does not say with which audio config it was made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.audio import needs_conversion
from common.config import AudioConfig
from common.data.filelist import Clip, raise_problems
from common.errors import UserError
from common.files import replacing, write_text
from common.schema import from_dict
from common.wording import counted

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
    """ "audio.key is x, stored y" for each key that differs; `owner` precedes the value of `theirs`."""
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
            with contextlib.suppress(ValueError):  # a damaged file counts as missing
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
        """Write the mel of `clip`, complete or not at all, unless the power fails."""
        path = cls.mel_path(directory, clip)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not flushed to the disk: that takes longer than computing the mel. After a power failure `load` may find a
        # damaged file; it then says to remove it.
        with replacing(path, durable=False) as temporary, open(temporary, "wb") as file:
            np.save(file, mel)

    def check(self, clips: list[Clip], audio: AudioConfig) -> list[int]:
        """Return the number of frames of each mel.

        Raises UserError if a prepared mel is missing, stale or made with another audio config, or if a mel that the
        filelist names is unreadable or has the wrong shape.
        """
        prepared = [clip for clip in clips if clip.file.suffix not in MEL_SUFFIXES]
        if prepared and self.audio is None:
            raise UserError(
                f"data.mel_dir={self.path}: holds no prepared mels ({AUDIO_FILE} is missing or damaged); "
                f"run: {self._command(clips, audio)}"
            )
        if prepared and (differences := audio_differences(audio, self.audio or {})):
            raise UserError(
                f"data.mel_dir={self.path}: the mels were made with another audio config ({'; '.join(differences)}); "
                "train with the stored config, or make a second set of mels and train with data.mel_dir=OTHER; run: "
                f"{self._command(clips, audio, mel_dir='OTHER')}"
            )
        missing = [clip for clip in prepared if not self.is_fresh(clip)]
        if missing:
            raise UserError(
                f"data.mel_dir={self.path}: {len(missing)} of {counted(len(prepared), 'mel')} "
                f"{'is' if len(missing) == 1 else 'are'} missing or of a clip that has changed; the first "
                f"is that of {missing[0].path}; run: {self._command(clips, audio)}"
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
        except Exception as error:  # whichever part of the file is damaged
            cure = f"remove it and run: {self._command([clip])}"
            if file == clip.file:
                cure = "replace it or remove its row"
            raise UserError(f"{clip.where}: {file} is not a readable mel ({str(error)[:80]}); {cure}") from error

    def _command(self, clips: list[Clip], audio: AudioConfig | None = None, mel_dir: str = "") -> str:
        """The command that computes the mels of these clips, with the stored audio config if `audio` is None."""
        root = clips[0].file.parents[len(Path(clips[0].path).parts) - 1]
        if not mel_dir and self.path != root / "mels":
            mel_dir = str(self.path)
        config = dataclasses.asdict(audio) if audio else self.audio or {}
        default = dataclasses.asdict(AudioConfig())
        options = [f"audio.{key}={value}" for key, value in config.items() if default.get(key) != value]
        options += ["data.convert_audio=true"] * needs_conversion(clips[0].file, from_dict(AudioConfig, config))
        options = [f"data.mel_dir={mel_dir}"] * bool(mel_dir) + options
        return " ".join(["bash scripts/prepare_mels.sh", *map(shlex.quote, [str(root), *options])])
