"""Finds recordings in a folder and reads them as blocks of mono samples, in memory that does not grow with length.

soundfile reads most formats; FFmpeg's libraries (PyAV) read the others, such as m4a, and the sound of videos. PyAV is
imported only for them.

Shapes: N samples, float32, full scale is 1.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from common.audio import LOUDEST, MAX_RATE, MIN_RATE, refuse_truncated_wav
from common.errors import UserError, first_line
from common.wording import counted

SOUNDFILE_SUFFIXES = {
    ".wav", ".flac", ".ogg", ".oga", ".mp3", ".opus", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64", ".snd",
}  # fmt: skip
FFMPEG_SUFFIXES = {
    ".m4a", ".m4b", ".mp4", ".aac", ".wma", ".webm", ".mkv", ".mka", ".mov", ".amr", ".3gp", ".ac3", ".mp2", ".ape",
    ".wv",
}  # fmt: skip
OTHER_SUFFIXES = {
    "", ".txt", ".lab", ".csv", ".tsv", ".json", ".jsonl", ".md", ".pdf", ".png", ".jpg", ".zip", ".gz", ".bz2",
    ".textgrid", ".yaml", ".xml", ".html", ".srt", ".vtt", ".docx", ".raw", ".pt", ".npy", ".py", ".sh",
    ".sha256", ".m3u",
}  # fmt: skip # not asked whether they hold audio
BLOCK_SECONDS = 10.0
RECENT_SECONDS, WAIT_SECONDS = (
    10.0,
    1.0,
)  # a file that changed so recently may still be written: look again after a wait
TOLERANCE_SECONDS = 0.5  # between the length that a header gives and the decoded one; some headers give an estimate
MAX_NAMED = 5  # files in a message
INSTALL_AV = "run in the repository: pip install -e '.[eval]'"


@dataclass(frozen=True)
class Recording:
    """A file with speech. `name` is its path below the folder without the suffix, with "/" between folders."""

    name: str
    path: Path
    seconds: float
    sample_rate: int
    channels: int
    size: int  # bytes
    mtime_ns: int

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a result of this recording to be still valid."""
        return {"path": self.name + self.path.suffix, "size": self.size, "mtime_ns": self.mtime_ns}


class Span(NamedTuple):
    """A stretch of a recording, in seconds."""

    start: float
    end: float


def named(paths: Iterable[Path | str]) -> str:
    """The first names of a list, for a message."""
    shown = [str(path) for path in paths]
    more = f" and {len(shown) - MAX_NAMED:,} more" if len(shown) > MAX_NAMED else ""
    return ", ".join(shown[:MAX_NAMED]) + more


def find_files(folder: Path) -> list[Path]:
    """The audio files below a folder, by name, whatever their format.

    Raises UserError if there are none, or if two would give clips of the same name.
    """
    if not folder.is_dir():
        what = "a file, not a folder" if folder.exists() else "no such folder"
        raise UserError(f"recordings={folder}: {what}; give the folder that holds the recordings")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_hidden(path.relative_to(folder))]
    audio = [path for path in files if is_audio(path)]
    if not audio:
        kinds = Counter(path.suffix.lower() or "no suffix" for path in files)
        there = ", ".join(f"{counted(number, 'file')} with {kind}" for kind, number in kinds.most_common(6))
        raise UserError(
            f"recordings={folder}: no audio file is in it ({there or 'it is empty'}); give the folder that holds the "
            "recordings, such as wav, flac, mp3, m4a or opus files"
        )
    _refuse_same_names(folder, audio)
    return audio


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def is_audio(path: Path) -> bool:
    """Whether a file is audio, by its suffix; a file with an unknown suffix is opened."""
    suffix = path.suffix.lower()
    if suffix in SOUNDFILE_SUFFIXES | FFMPEG_SUFFIXES:
        return True
    if suffix in OTHER_SUFFIXES:
        return False
    return _soundfile_info(path) is not None


def name_of(folder: Path, path: Path) -> str:
    """The name of a recording: "a/b" for a/b.wav below `folder`."""
    return path.relative_to(folder).with_suffix("").as_posix()


def clip_stem(name: str) -> str:
    """The start of the names of a recording's clips: its own name without wavs/ and without signs that metadata and
    shells read as something else."""
    return re.sub(r"[^\w.-]+", "_", name.removeprefix("wavs/").removeprefix("clips/"))


def _refuse_same_names(folder: Path, paths: Sequence[Path]) -> None:
    by_stem: defaultdict[str, list[Path]] = defaultdict(list)
    for path in paths:
        by_stem[clip_stem(name_of(folder, path)).lower()].append(path)
    if same := [group for group in by_stem.values() if len(group) > 1]:
        pairs = [" and ".join(path.relative_to(folder).as_posix() for path in group) for group in same]
        raise UserError(
            f"recordings={folder}: {counted(len(same), 'group')} of files whose clips would have the same names: "
            f"{named(pairs)}; if they are the same recording, keep one, otherwise rename one"
        )


def probe(folder: Path, paths: Sequence[Path]) -> list[Recording]:
    """Length, sample rate and channels of each file, from its header.

    Raises UserError for files that cannot be read, and for one that another program is still writing.
    """
    found, problems = [], []
    for path in paths:
        try:
            found.append(_probe(folder, path))
        except UserError as error:
            problems.append(str(error))
    newest = max((recording.mtime_ns for recording in found), default=0) / 1e9
    if time.time() - newest < RECENT_SECONDS or problems:
        time.sleep(WAIT_SECONDS)
        for recording in found:
            refuse_changed(recording)
    if problems:
        more = f"\nand {len(problems) - MAX_NAMED:,} more files" if len(problems) > MAX_NAMED else ""
        raise UserError("\n".join(problems[:MAX_NAMED]) + more)
    return found


def refuse_changed(recording: Recording) -> None:
    """Raise a UserError if the file is no longer the one that was found."""
    try:
        now = recording.path.stat()
    except OSError as error:
        raise UserError(
            f"{recording.path}: it was there and is not any more ({error.strerror}); run this again"
        ) from error
    if (now.st_size, now.st_mtime_ns) != (recording.size, recording.mtime_ns):
        raise UserError(
            f"{recording.path}: the file has changed since it was found, or is still being written "
            f"({recording.size:,} bytes, then {now.st_size:,}); wait until the program that records or copies it has "
            "finished, and run this again"
        )


def _probe(folder: Path, path: Path) -> Recording:
    try:
        state = path.stat()
        if not state.st_size:
            raise UserError(f"{path}: the file is empty; copy it again or remove it")
        refuse_truncated_wav(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    info = _soundfile_info(path)
    if info is not None:
        seconds, rate, channels = info.frames / info.samplerate, info.samplerate, info.channels
    else:
        with _av_stream(path) as (container, stream):
            rate, channels = int(stream.rate), int(stream.codec_context.channels)
            seconds = _av_seconds(container, stream)
    if not MIN_RATE <= rate <= MAX_RATE:
        raise UserError(
            f"{path}: a sample rate of {rate} Hz is not plausible; the file is damaged: copy it again or remove it"
        )
    if seconds <= 0:
        raise UserError(
            f"{path}: its header says that it has no samples; the recording is empty or unfinished: remove it"
        )
    return Recording(
        name_of(folder, path), path, float(seconds), int(rate), int(channels), state.st_size, state.st_mtime_ns
    )


def _soundfile_info(path: Path) -> Any:
    """What soundfile says about a file; None for one that it cannot read, which is left to PyAV."""
    if path.suffix.lower() in FFMPEG_SUFFIXES:
        return None
    try:
        return soundfile.info(str(path))
    except (soundfile.LibsndfileError, OSError, TypeError):
        return None


def _av_seconds(container: Any, stream: Any) -> float:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return float(container.duration) / 1e6
    # Some containers, such as aac without one, do not say: count the samples.
    return float(sum(frame.samples for frame in container.decode(stream)) / stream.rate)


@contextmanager
def _av_stream(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and the first audio stream of a file; what PyAV raises becomes a UserError."""
    try:
        import av
    except ImportError as error:
        raise UserError(
            f"{path}: soundfile cannot read it, and PyAV, which might, is not installed; {INSTALL_AV}"
        ) from error
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise UserError(f"{path}: it has no sound; remove it from the folder")
            yield container, container.streams.audio[0]
    except (av.FFmpegError, OSError) as error:
        raise UserError(
            f"{path}: not a readable audio file ({first_line(error)}); it may be damaged or unfinished: copy it "
            "again or remove it"
        ) from error


def blocks(recording: Recording, seconds: float = BLOCK_SECONDS) -> Iterator[np.ndarray]:
    """Yield a recording as blocks (N) of mono samples at its own rate, of about `seconds` each.

    Raises UserError if the file ends before the end that its header promises, or holds samples that are no numbers.
    """
    read = 0
    source = _av_blocks if _soundfile_info(recording.path) is None else _soundfile_blocks
    for block in source(recording, max(1, round(seconds * recording.sample_rate))):
        if len(block) and not -LOUDEST < block.min() <= block.max() < LOUDEST:
            raise UserError(f"{recording.path}: holds samples that are NaN or infinite; convert it again or remove it")
        read += len(block)
        yield block
    got = read / recording.sample_rate
    if got < min(recording.seconds - TOLERANCE_SECONDS, 0.99 * recording.seconds) or not read:
        raise UserError(
            f"{recording.path}: truncated or still being written: its header promises {recording.seconds:.1f} s, it "
            f"holds {got:.1f} s; wait until it is complete, or copy it again"
        )


def _soundfile_blocks(recording: Recording, size: int) -> Iterator[np.ndarray]:
    try:
        with soundfile.SoundFile(str(recording.path)) as file:
            while len(block := file.read(size, dtype="float32", always_2d=True)):
                yield block[:, 0] if file.channels == 1 else block.mean(axis=1)
    except (soundfile.LibsndfileError, OSError) as error:
        raise UserError(f"{recording.path}: damaged ({first_line(error)}); copy it again or remove it") from error


def _av_blocks(recording: Recording, size: int) -> Iterator[np.ndarray]:
    import av

    parts: list[np.ndarray] = []
    with _av_stream(recording.path) as (container, stream):
        resampler = av.AudioResampler(format="fltp", rate=recording.sample_rate)
        for frame in container.decode(stream):
            frame.pts = None  # a jump in the time stamps is no reason to stop
            parts += [part.to_ndarray().mean(axis=0) for part in resampler.resample(frame)]
            if sum(map(len, parts)) >= size:
                yield np.concatenate(parts)
                parts = []
        parts += [part.to_ndarray().mean(axis=0) for part in resampler.resample(None)]
    if parts:
        yield np.concatenate(parts)


def stretches(recording: Recording, spans: Sequence[Span]) -> Iterator[np.ndarray]:
    """Yield the samples (N) of each of `spans`, which start one after the other, in one pass through the file."""
    rate = recording.sample_rate
    source, buffer, offset = blocks(recording), np.zeros(0, np.float32), 0  # offset: of the buffer's first sample
    for span in spans:
        start, end = round(span.start * rate), round(span.end * rate)
        while offset + len(buffer) < end and (block := next(source, None)) is not None:
            keep = max(0, start - offset)
            buffer, offset = np.concatenate([buffer[keep:], block]), offset + min(keep, len(buffer))
        yield buffer[max(0, start - offset) : max(0, end - offset)]


def read(recording: Recording, span: Span) -> np.ndarray:
    """The samples (N) of one stretch."""
    return next(stretches(recording, [span]))


def refuse_inside(folder: Path, output: Path, key: str = "output") -> None:
    """Raise a UserError if the output, which the option `key` names, would be found among the recordings, or if they
    lie in it, where files are replaced."""
    written, read = Path(os.path.realpath(output)), Path(os.path.realpath(folder))
    if written.is_relative_to(read):
        raise UserError(f"{key}={output}: it is inside of recordings={folder}; choose a folder outside of it")
    if read.is_relative_to(written):
        raise UserError(f"recordings={folder}: it is inside of {key}={output}, where files are replaced; move it")
