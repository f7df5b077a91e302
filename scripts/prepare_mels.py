"""Compute the mels of all clips in a corpus's filelists, in parallel.

    python scripts/prepare_mels.py data.root=DIR [audio.fmax=7600 ...]
    python scripts/prepare_mels.py data.root=DIR shards=true        a few large files, for network disks

Clips whose mel is up to date and undamaged are skipped. With shards=true, mels that have files of their own move into
the shards.
"""

from __future__ import annotations

import checkout  # noqa: F401

if __name__ == "__main__":  # before the slow imports
    from common.help import show_help

    show_help("prepare_mels", __doc__)

import functools
import itertools
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from common.audio import LogMel, load_audio
from common.config import AudioConfig, DataConfig
from common.data.filelist import Clip, filelists, raise_problems, read_filelist
from common.data.mels import MEL_SUFFIXES, Entry, MelDirectory, audio_differences
from common.data.shards import ShardWriter
from common.entry import hydra_entry
from common.errors import UserError
from common.files import make_directory
from common.lock import locked
from common.parallel import in_parallel
from common.schema import Count, Options, from_dict
from common.wording import counted


@dataclass
class PrepareConfig(Options):
    """The keys of conf/prepare_mels.yaml, which explains them."""

    audio: AudioConfig
    data: DataConfig
    shards: bool = False
    num_processes: Count | None = None


class Mel(NamedTuple):
    """A mel that was computed. `values` (n_mels, T) is None if it is written already."""

    entry: Entry
    values: np.ndarray | None


def all_clips(data: DataConfig) -> list[Clip]:
    """The clips of all filelists, each once, without those that are mels already."""
    lists = filelists(data).values()
    clips = {clip.path: clip for filelist in lists for clip in read_filelist(filelist, data.root, data.follow_links)}
    return [clip for clip in clips.values() if clip.suffix not in MEL_SUFFIXES]


@functools.cache
def log_mel(audio: AudioConfig) -> LogMel:
    return LogMel(audio)


def compute(job: tuple[Clip, PrepareConfig]) -> Mel | str:
    """Compute the mel of a clip, and write it unless it belongs in a shard. Return what is wrong with a clip."""
    clip, config = job
    audio, data = config.audio, config.data
    try:
        stat = clip.stat()
        samples = load_audio(clip.file, audio, data.convert_audio)
    except (OSError, UserError) as error:  # a clip that has been removed meanwhile is an OSError
        return f"{clip.where}: {error}"
    mel = log_mel(audio)(torch.from_numpy(samples).unsqueeze(0))[0].numpy()
    entry = Entry.of(clip, stat, mel, audio)
    if config.shards:
        return Mel(entry, mel)
    MelDirectory.save(Path(data.mel_dir), entry, mel)
    return Mel(entry, None)


@hydra_entry("prepare_mels")
def main(values: dict[str, Any]) -> None:
    config = from_dict(PrepareConfig, values)
    clips = all_clips(config.data)
    make_directory(Path(config.data.mel_dir), "data.mel_dir")
    with locked(Path(config.data.mel_dir), "data.mel_dir"):
        update(clips, config)


def update(clips: list[Clip], config: PrepareConfig) -> None:
    """Compute the mels that are missing, stale or damaged."""
    mels = MelDirectory(config.data.mel_dir)
    if mels.audio is None or audio_differences(config.audio, mels.audio):
        if mels.audio is not None:
            print(f"{mels.path}: the audio config has changed; all mels are recomputed")
        mels.reset(config.audio)
    todo = [(clip, config) for clip in clips if not mels.is_sound(clip)]
    mels.compact()  # a killed run may have left half a line; appending to it would corrupt the next entry
    results: Iterable[Mel | str] = in_parallel(compute, todo, config.num_processes, "clip") if todo else ()
    if config.shards:
        results = itertools.chain(results, files(clips, mels))
    problems = keep(results, mels, config.shards)
    mels.compact()
    done, before = counted(len(todo) - len(problems), "mel"), len(clips) - len(todo)
    print(f"{mels.path}: {done} computed, {before:,} {'was' if before == 1 else 'were'} up to date")
    raise_problems(problems)
    print("next: train.py; docs/voices.md has the command for each goal")


def files(clips: list[Clip], mels: MelDirectory) -> Iterator[Mel]:
    """The mels that are up to date and have a file of their own."""
    for clip in clips:
        entry = mels.entries.get(clip.path)
        if entry is not None and entry.place is None and mels.is_fresh(clip):
            yield Mel(entry, mels.load(clip))


def keep(results: Iterable[Mel | str], mels: MelDirectory, shards: bool) -> list[str]:
    """Put what was computed into the manifest, and its values into shards if these are wanted. Return the problems."""
    problems = []
    writer = ShardWriter(mels.path, mels.add_shard) if shards else None
    with writer or nullcontext():
        for result in results:
            if isinstance(result, str):
                problems.append(result)
            elif writer is not None and result.values is not None:
                writer.add(result.entry, result.entry.clip, result.values)
            else:
                mels.add(result.entry)
    return problems


if __name__ == "__main__":
    main()
