"""A large corpus: how long training takes to start on it, how much memory that needs, and how fast mels are read.

    PYTHONPATH=scripts python -m benchmarks.large_corpus make DIR --clips 350000
    PYTHONPATH=scripts python -m benchmarks.large_corpus make DIR --clips 10000 --frames 480 --files
    PYTHONPATH=scripts python -m benchmarks.large_corpus start DIR
    PYTHONPATH=scripts python -m benchmarks.large_corpus read DIR

make writes random texts, silent recordings and noise as mels: in shards or, with --files, one file for each. start
trains both small models for one step each. read loads mels in random order, which the system's cache does not hold yet.
"""

from __future__ import annotations

import checkout

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from common.config import AudioConfig
from common.data.filelist import Clip, read_filelist, read_lines
from common.data.mels import Entry, MelDirectory
from common.data.shards import ShardWriter, shard_path
from common.entry import run_command
from common.errors import UserError
from common.files import make_directory, write_text
from common.signals import SIGNALED

WORDS = checkout.REPOSITORY / "filelists" / "unseen_sentences.txt"
TEXT_WORDS = 17  # about 95 characters, as in LibriTTS
PER_FOLDER = 1000  # recordings
VALIDATED = 50  # clips
READ_SECONDS = 10.0
OPTIONS = {
    "tacotron2_small": ["trainer.batch_frames=null", "trainer.batch_size=8"],
    "waveglow_small": ["data.segment_length=4000", "trainer.batch_size=2"],
}


# ---- make ----


def rows(number: int) -> Iterator[tuple[str, str]]:
    """(path, text) of each clip."""
    draw = random.Random(0)
    words = " ".join(line for _, line in read_lines(WORDS, "text")).lower().replace('"', "").split()
    for index in range(number):
        yield f"wavs/{index // PER_FOLDER:04}/{index:07}.wav", " ".join(draw.choices(words, k=TEXT_WORDS)).capitalize()


def make(root: Path, number: int, frames: int, files: bool) -> None:
    audio, noise = AudioConfig(), np.random.default_rng(0)
    names = [name for name, _ in rows(number)]
    for folder in sorted({Path(name).parent for name in names}):
        make_directory(root / folder, "DIR")
    for start in range(0, number, PER_FOLDER):  # links, because the files would be alike
        first, *others = names[start : start + PER_FOLDER]
        soundfile.write(root / first, np.zeros(frames * audio.hop_length, np.int16), audio.sample_rate)
        for name in others:
            os.link(root / first, root / name)
    make_directory(root / "filelists", "DIR")
    lines = [f"{name}|{text}\n" for name, text in rows(number)]
    write_text(root / "filelists/train.txt", "".join(lines[VALIDATED:]))
    write_text(root / "filelists/val.txt", "".join(lines[:VALIDATED]))
    make_directory(root / "mels", "DIR")
    mels = MelDirectory(root / "mels")
    mels.reset(audio)
    values = noise.standard_normal((audio.n_mels, frames), dtype=np.float32)
    entries = (
        Entry.of(Clip(name, "", root, "", 0), (root / name).stat(), values + index, audio)
        for index, name in enumerate(names)
    )
    if files:
        for index, entry in enumerate(entries):
            mels.save(mels.path, entry, values + index)
            mels.entries[entry.clip] = entry
        mels.compact()
    else:
        with ShardWriter[Entry](mels.path, mels.add_shard) as writer:
            for index, entry in enumerate(entries):
                writer.add(entry, entry.clip, values + index)
    print(f"{root}: {number:,} clips with {frames} frames each")


# ---- start ----


def tree_bytes(pid: int) -> int:
    """The memory of a process and those that it started, each page counted once (PSS)."""
    total, pids = 0, [pid]
    while pids:
        process = Path(f"/proc/{pids.pop()}")
        try:
            lines = (process / "smaps_rollup").read_text().splitlines()
            total += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            for task in (process / "task").iterdir():
                pids += map(int, (task / "children").read_text().split())
        except (OSError, ValueError):  # it has ended
            continue
    return total


def start(root: Path) -> None:
    """Print the seconds until the first step of each model has ended, and the peak of memory until then."""
    for model, options in OPTIONS.items():
        with tempfile.TemporaryDirectory() as run_dir:
            log, began, peak = Path(run_dir) / "run/log.jsonl", time.monotonic(), 0
            command = [sys.executable, str(checkout.REPOSITORY / "train.py"), f"model={model}", f"data.root={root}"]
            command += [f"run_dir={run_dir}/run", "trainer.log_every_steps=1", "data.num_workers=2", "trackers=[]"]
            process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
            while process.poll() is None and not (log.is_file() and '"train_loss"' in log.read_text()):
                peak = max(peak, tree_bytes(process.pid))
                time.sleep(0.2)
            seconds = time.monotonic() - began
            process.terminate()
            if process.wait() not in (0, SIGNALED + signal.SIGTERM):
                raise UserError(f"{model}: train.py ended with status {process.returncode}; its message is above")
        print(f"{model}: first step after {seconds:.1f} s, memory at most {peak / 1e6:,.0f} MB", flush=True)


# ---- read ----


def forget(paths: Iterator[Path]) -> None:
    """Drop files from the system's cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read(root: Path) -> None:
    """Print how many mels are read in a second, from the disk and then from the cache."""
    clips = read_filelist(root / "filelists/train.txt", root)
    random.Random(0).shuffle(clips)
    mels = MelDirectory(root / "mels")
    mels.check(clips, AudioConfig())
    files = (mels.mel_path(mels.path, clip.path) for clip in clips)
    forget(iter(sorted(shard_path(mels.path, 0).parent.glob("*.tar"))) if mels.entries[clips[0].path].place else files)
    for where in ("disk", "cache"):
        began, count, size = time.monotonic(), 0, 0
        for clip in clips:
            size += mels.load(clip).nbytes
            count += 1
            if time.monotonic() - began > READ_SECONDS:
                break
        seconds = time.monotonic() - began
        clips = clips[:count]
        print(f"from the {where}: {count / seconds:,.0f} mels/s, {size / seconds / 1e6:,.0f} MB/s", flush=True)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["make", "start", "read"])
    parser.add_argument("root", type=Path, metavar="DIR", help="folder of the corpus")
    parser.add_argument("--clips", type=int, default=350_000)
    parser.add_argument("--frames", type=int, default=25, help="of each mel")
    parser.add_argument("--files", action="store_true", help="a file for each mel instead of shards")
    return parser


def main() -> None:
    options = parser().parse_args()
    if options.action == "make":
        make(options.root, options.clips, options.frames, options.files)
    else:
        {"start": start, "read": read}[options.action](options.root)


if __name__ == "__main__":
    run_command(main)
