"""Prepared mels on disk: one float32 .npy (n_mels, T) for each clip, and the audio config of all mels.

    MEL_DIR/audio.json      the AudioConfig of all mels
    MEL_DIR/manifest.jsonl  a line for each finished mel, an Entry; it pins what is in the file
    MEL_DIR/<clip>.npy      named after the clip in the filelist: wavs/a.wav.npy
    MEL_DIR/shards/*.tar    or the same in a few large files: shards.py

A row of a filelist may also name a mel (.npy, or the reference's .pt). Only its shape and values are checked, because
the file does not say with which audio config it was made.

`check` compares the sizes of files with the manifest before training, and `load` compares the values of a mel: one that
is damaged, or replaced while a run reads, is an error and not a target.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.audio import needs_conversion
from common.config import AudioConfig
from common.data.filelist import Clip, normal, raise_problems
from common.data.shards import Place, ShardReader, shard_path
from common.errors import UserError, first_line
from common.files import json_lines, make_directory, replacing, write_text, writing
from common.schema import from_dict
from common.wording import counted

AUDIO_FILE, MANIFEST_FILE = "audio.json", "manifest.jsonl"
MEL_SUFFIXES = (".npy", ".pt")
NPY_HEADER = 128  # bytes that numpy puts before the values of a matrix


@dataclass(frozen=True, slots=True)  # with slots, because a large corpus has many of them
class Entry:
    """One line of the manifest. Earlier versions did not write the last four."""

    clip: str
    frames: int
    size: int  # bytes of the clip
    mtime_ns: int  # of the clip
    crc: int | None = None  # CRC-32 of the mel's values
    audio: int | None = None  # CRC-32 of the AudioConfig that the mel was made with
    shard: int | None = None  # that holds the mel; None: a file of its own
    offset: int | None = None  # bytes in the shard before the mel

    @classmethod
    def parse(cls, row: dict[str, Any]) -> Entry | None:
        """The entry in a row of the manifest; None if it is not one."""
        try:
            entry = cls(**row)
        except TypeError:
            return None
        numbers = (entry.frames, entry.size, entry.mtime_ns)
        is_valid = isinstance(entry.clip, str) and all(type(number) is int for number in numbers) and entry.frames > 0
        if not is_valid or {type(entry.shard), type(entry.offset)} not in ({int}, {type(None)}):
            return None
        clip = normal(entry.clip)
        return entry if clip == entry.clip else dataclasses.replace(entry, clip=clip)

    @classmethod
    def of(cls, clip: Clip, stat: os.stat_result, mel: np.ndarray, audio: AudioConfig) -> Entry:
        """The entry of a new mel; `stat` is that of the clip, taken before the clip was read."""
        audio_crc = _config_crc(dataclasses.asdict(audio))
        return cls(clip.path, mel.shape[1], stat.st_size, stat.st_mtime_ns, _mel_crc(mel), audio_crc)

    @property
    def place(self) -> Place | None:
        """Where in a shard the mel is; None if it has a file of its own."""
        return None if self.shard is None or self.offset is None else Place(self.shard, self.offset)

    def num_bytes(self, num_mels: int) -> int:
        """Of the mel as .npy."""
        return NPY_HEADER + 4 * num_mels * self.frames

    def line(self) -> str:
        """The line of the manifest."""
        values = dataclasses.asdict(self)
        if self.place is None:
            del values["shard"], values["offset"]
        return json.dumps(values) + "\n"


def audio_differences(
    ours: AudioConfig, theirs: AudioConfig | Mapping[str, object], owner: str = "stored"
) -> list[str]:
    """ "audio.key is x, stored y" for each key that differs; `owner` precedes the value of `theirs`."""
    own = dataclasses.asdict(ours)
    other = dataclasses.asdict(theirs) if isinstance(theirs, AudioConfig) else theirs
    keys = sorted(own.keys() | other.keys())
    return [f"audio.{k} is {own.get(k)}, {owner} {other.get(k)}" for k in keys if own.get(k) != other.get(k)]


def _config_crc(audio: Mapping[str, object]) -> int:
    values = {key: float(value) if isinstance(value, int) else value for key, value in audio.items()}
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def _mel_crc(mel: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(mel, np.float32).data)


class MelDirectory:
    """The mels in one directory; `entries` are the finished ones, by clip."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.audio: dict[str, object] | None = None
        self.audio_crc: int | None = None
        try:
            stored = json.loads((self.path / AUDIO_FILE).read_text(encoding="utf-8"))
            self.audio = stored if isinstance(stored, dict) else None
        except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):  # a damaged file counts as missing
            pass
        # A killed run may leave half a line; its mel is computed again.
        manifest = self.path / MANIFEST_FILE
        entries = map(Entry.parse, json_lines(manifest) if manifest.is_file() else ())
        self.entries = {entry.clip: entry for entry in entries if entry}
        self.num_mels: int | None = None  # n_mels that `check` was called with
        self.times: dict[str, int] = {}  # modification times at `check` of mels without a checksum, by clip
        self.shards = ShardReader(self.path)

    @staticmethod
    def mel_path(directory: Path, clip: str) -> Path:
        return directory / f"{clip}.npy"  # keeps the suffix, because x.wav and x.flac are two clips

    def is_fresh(self, clip: Clip) -> bool:
        """True if the mel of `clip` exists with the size that it should have, and the clip has not changed since."""
        entry, num_mels = self.entries.get(clip.path), self._num_mels()
        if entry is None or num_mels is None or entry.audio not in (None, self._audio_crc()):
            return False
        expected = entry.num_bytes(num_mels)
        try:
            stat = clip.stat()
            if entry.place is not None:
                is_there = self.shards.holds(entry.place, expected)
            else:
                is_there = self.mel_path(self.path, clip.path).stat().st_size == expected
        except OSError:
            return False
        return is_there and (entry.size, entry.mtime_ns) == (stat.st_size, stat.st_mtime_ns)

    def _audio_crc(self) -> int:
        if self.audio_crc is None:
            self.audio_crc = _config_crc(self.audio or {})
        return self.audio_crc

    def _num_mels(self) -> int | None:
        """`n_mels` of the prepared mels; None if audio.json does not say."""
        number = (self.audio or {}).get("n_mels")
        return number if isinstance(number, int) else None

    def is_sound(self, clip: Clip) -> bool:
        """True if the mel of `clip` is fresh and undamaged. One of an earlier version gets its checksum."""
        if not self.is_fresh(clip):
            return False
        try:
            mel = self.load(clip)
        except UserError:
            return False
        self.entries[clip.path] = dataclasses.replace(
            self.entries[clip.path], crc=_mel_crc(mel), audio=self._audio_crc()
        )
        return True

    def reset(self, audio: AudioConfig) -> None:
        """Start again with another audio config: all mels count as stale and are replaced one by one."""
        self.entries, self.audio, self.audio_crc = {}, dataclasses.asdict(audio), None
        (self.path / MANIFEST_FILE).unlink(missing_ok=True)
        self.shards.remove()
        write_text(self.path / AUDIO_FILE, json.dumps(self.audio, indent=2) + "\n")

    def add(self, *entries: Entry) -> None:
        """Append to the manifest."""
        self.entries.update((entry.clip, entry) for entry in entries)
        path = self.path / MANIFEST_FILE
        with writing(path), open(path, "a", encoding="utf-8") as file:
            file.writelines(entry.line() for entry in entries)

    def add_shard(self, members: list[tuple[Entry, Place]]) -> None:
        """Append the mels of a new shard to the manifest, and delete the files that they had of their own."""
        self.add(*(dataclasses.replace(entry, shard=place.shard, offset=place.offset) for entry, place in members))
        for entry, _ in members:
            self.mel_path(self.path, entry.clip).unlink(missing_ok=True)

    def compact(self) -> None:
        """Rewrite the manifest with one line for each clip."""
        write_text(self.path / MANIFEST_FILE, "".join(entry.line() for entry in self.entries.values()))

    @classmethod
    def save(cls, directory: Path, entry: Entry, mel: np.ndarray) -> None:
        """Write a mel into a file of its own, complete or not at all, unless the power fails."""
        path = cls.mel_path(directory, entry.clip)
        make_directory(path.parent, "data.mel_dir")
        # Not flushed to the disk: that takes longer than computing the mel. After a power failure `load` may find a
        # damaged file; prepare_mels then replaces it.
        with replacing(path, durable=False) as temporary, open(temporary, "wb") as file:
            np.save(file, np.ascontiguousarray(mel, np.float32))

    def check(self, clips: list[Clip], audio: AudioConfig) -> list[int]:
        """Return the number of frames of each mel.

        Raises UserError if a prepared mel is missing, stale, of another size or made with another audio config, or if a
        mel that the filelist names is unreadable or has the wrong shape. The values are left to `load`.
        """
        prepared = [clip for clip in clips if clip.suffix not in MEL_SUFFIXES]
        if prepared:
            self._check_prepared(prepared, audio)
        self.num_mels = audio.n_mels
        frames, problems = [], []
        for clip in clips:
            entry = self._entry(clip)
            try:
                frames.append(entry.frames if entry else self._open(clip).shape[1])
                if entry is None or entry.crc is None:
                    self.times[clip.path] = self._time(clip)
            except UserError as error:
                problems.append(str(error))
        raise_problems(problems)
        return frames

    def _check_prepared(self, clips: list[Clip], audio: AudioConfig) -> None:
        if self.audio is None:
            raise UserError(
                f"data.mel_dir={self.path}: holds no prepared mels ({AUDIO_FILE} is missing or damaged); "
                f"run: {self._command(clips, audio)}"
            )
        if differences := audio_differences(audio, self.audio):
            raise UserError(
                f"data.mel_dir={self.path}: the mels were made with another audio config ({'; '.join(differences)}); "
                "train with the stored config, or make a second set of mels and train with data.mel_dir=OTHER; run: "
                f"{self._command(clips, audio, mel_dir='OTHER')}"
            )
        if missing := [clip for clip in clips if not self.is_fresh(clip)]:
            raise UserError(
                f"data.mel_dir={self.path}: {len(missing)} of {counted(len(clips), 'mel')} "
                f"{'is' if len(missing) == 1 else 'are'} missing, damaged or of a clip that has changed; the first "
                f"is that of {missing[0].path}; run: {self._command(clips, audio)}"
            )

    def load(self, clip: Clip) -> np.ndarray:
        """The mel (n_mels, T) of a clip in float32.

        Raises UserError if it is unreadable, has another shape than it should have or a value that is NaN or infinite,
        or is another than at `check`.
        """
        mapped, entry = self._open(clip), self._entry(clip)
        try:
            mel = np.array(mapped, np.float32, order="C")
        except (ValueError, TypeError) as error:  # values that are no numbers
            raise self._error(clip, f"is not a readable mel ({first_line(error)[:80]})") from error
        if not np.isfinite(mel).all():
            raise self._error(clip, "holds values that are NaN or infinite")
        if entry and entry.crc not in (None, _mel_crc(mel)):
            raise self._error(
                clip, "is not the mel that was prepared: its checksum differs, so it is damaged or was computed again"
            )
        if clip.path in self.times and self.times[clip.path] != self._time(clip):
            raise self._error(clip, "has changed since it was checked")
        return mel

    def check_clip(self, clip: Clip) -> None:
        """Raise a UserError if a clip is not the one that its mel was computed from: it was replaced since."""
        entry = self._entry(clip)
        try:
            stat = clip.stat()
        except OSError as error:
            raise UserError(f"{clip.where}: {clip.file} cannot be read ({error.strerror}); restore it") from error
        if entry and (entry.size, entry.mtime_ns) != (stat.st_size, stat.st_mtime_ns):
            raise self._error(clip, f"is the mel of an earlier {clip.file.name}, which has changed since")

    def _entry(self, clip: Clip) -> Entry | None:
        """The manifest's line for a prepared mel."""
        return None if clip.suffix in MEL_SUFFIXES else self.entries.get(clip.path)

    def _file(self, clip: Clip) -> Path:
        entry = self._entry(clip)
        if entry and entry.place is not None:
            return shard_path(self.path, entry.place.shard)
        return clip.file if clip.suffix in MEL_SUFFIXES else self.mel_path(self.path, clip.path)

    def _time(self, clip: Clip) -> int:
        try:
            return self._file(clip).stat().st_mtime_ns
        except OSError as error:
            raise self._error(clip, f"cannot be read ({error.strerror})") from error

    def _open(self, clip: Clip) -> np.ndarray:
        """The mel of a clip, with the right shape, and memory-mapped if the format allows it: without its values."""
        file, entry = self._file(clip), self._entry(clip)
        num_mels, frames = (self._num_mels(), entry.frames) if entry else (self.num_mels, None)
        try:
            if entry and entry.place is not None:
                mel = self.shards.read(entry.place, entry.num_bytes(num_mels or 0))
            elif file.suffix == ".pt":
                mel = torch.load(file, map_location="cpu", weights_only=True).numpy()
            else:
                mel = np.load(file, mmap_mode="r")
            shape = mel.shape
        except Exception as error:  # whichever part of the file is damaged
            raise self._error(clip, f"is not a readable mel ({first_line(error)[:80]})") from error
        if len(shape) != 2 or shape[0] != (num_mels or shape[0]) or shape[1] != (frames or shape[1] or 1):
            raise self._error(clip, f"has the shape {shape}, not ({num_mels or 'bands'}, {frames or 'frames'})")
        return mel

    def _error(self, clip: Clip, problem: str) -> UserError:
        file = self._file(clip)
        cure = "replace it or remove its row" if file == clip.file else f"run: {self._command([clip])}"
        inside = f" of {clip.path} in" if file.suffix == ".tar" else ""
        return UserError(f"{clip.where}:{f' the mel{inside}' if inside else ''} {file} {problem}; {cure}")

    def _command(self, clips: list[Clip], audio: AudioConfig | None = None, mel_dir: str = "") -> str:
        """The command that computes the mels of these clips, with the stored audio config if `audio` is None."""
        root = clips[0].root
        if not mel_dir and self.path != root / "mels":
            mel_dir = str(self.path)
        config = dataclasses.asdict(audio) if audio else self.audio or {}
        default = dataclasses.asdict(AudioConfig())
        options = [f"audio.{key}={value}" for key, value in config.items() if default.get(key) != value]
        options += ["data.convert_audio=true"] * needs_conversion(clips[0].file, from_dict(AudioConfig, config))
        options = [f"data.mel_dir={mel_dir}"] * bool(mel_dir) + options
        return " ".join(["bash scripts/prepare_mels.sh", *map(shlex.quote, [str(root), *options])])
