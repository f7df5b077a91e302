"""Compute the mels of all clips in a corpus's filelists, in parallel.

    python scripts/prepare_mels.py data.root=DIR [audio.fmax=7600 ...]

Clips whose mel is up to date and undamaged are skipped.
"""

from __future__ import annotations

import checkout  # noqa: F401

if __name__ == "__main__":  # before the slow imports
    from common.help import show_help

    show_help("prepare_mels", __doc__)

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.audio import LogMel, load_audio
from common.config import AudioConfig, DataConfig
from common.data.filelist import Clip, filelists, raise_problems, read_filelist
from common.data.mels import MEL_SUFFIXES, Entry, MelDirectory, audio_differences
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
    num_processes: Count | None = None


def all_clips(data: DataConfig) -> list[Clip]:
    """The clips of all filelists, each once, without those that are mels already."""
    lists = filelists(data).values()
    clips = {clip.path: clip for filelist in lists for clip in read_filelist(filelist, data.root, data.follow_links)}
    return [clip for clip in clips.values() if clip.file.suffix not in MEL_SUFFIXES]


@functools.cache
def log_mel(audio: AudioConfig) -> LogMel:
    return LogMel(audio)


def compute(job: tuple[Clip, AudioConfig, DataConfig]) -> Entry | str:
    """Write the mel of a clip, and return its entry in the manifest, or the problem with the clip."""
    clip, audio, data = job
    try:
        stat = clip.file.stat()
        samples = load_audio(clip.file, audio, data.convert_audio)
    except (OSError, UserError) as error:  # a clip that has been removed meanwhile is an OSError
        return f"{clip.where}: {error}"
    mel = log_mel(audio)(torch.from_numpy(samples).unsqueeze(0))[0]
    return MelDirectory.save(Path(data.mel_dir), clip, stat, mel.numpy(), audio)


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
    todo = [(clip, config.audio, config.data) for clip in clips if not mels.is_sound(clip)]
    mels.compact()  # a killed run may have left half a line; appending to it would corrupt the next entry
    problems = []
    for result in in_parallel(compute, todo, config.num_processes, "clip") if todo else ():
        if isinstance(result, Entry):
            mels.add(result)
        else:
            problems.append(result)
    mels.compact()
    done, before = counted(len(todo) - len(problems), "mel"), len(clips) - len(todo)
    print(f"{mels.path}: {done} computed, {before:,} {'was' if before == 1 else 'were'} up to date")
    raise_problems(problems)
    print("next: train.py; docs/voices.md has the command for each goal")


if __name__ == "__main__":
    main()
