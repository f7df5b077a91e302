"""Copy a corpus without the silence at the ends of its clips: with little data, attention then learns sooner.

    python scripts/trim_silence.py DIR OUT [--db 50] [--keep 0.1]

DIR holds metadata.csv and wavs/. OUT gets the same metadata, and the clips as 16-bit wavs with their own sample rate,
each from --keep seconds before its first sound to --keep seconds after its last. Everything within --db decibels of the
loudest part of a clip counts as sound. DIR is not changed.
"""

from __future__ import annotations

import checkout  # noqa: F401

import argparse
import math
import shutil
from pathlib import Path

import librosa
import numpy as np
from tqdm import tqdm

from common.audio import read_audio, save_audio
from common.data.metadata import read_metadata
from common.entry import run_command
from common.errors import UserError
from common.files import make_directory, new_directory, replacing
from common.wording import counted


def trim(audio: np.ndarray, sample_rate: int, db: float, keep: float) -> np.ndarray:
    """audio (N) or (N, channels) without the silence at its ends, except for `keep` seconds at each end."""
    loudness = audio if audio.ndim == 1 else audio.mean(axis=1)
    _, (first, end) = librosa.effects.trim(loudness, top_db=db)
    margin = round(keep * sample_rate)
    return audio[max(first - margin, 0) : end + margin]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source", type=Path, metavar="DIR", help="corpus with metadata.csv and wavs/; it is not changed"
    )
    parser.add_argument("target", type=Path, metavar="OUT", help="directory to create; it must not exist")
    parser.add_argument("--db", type=float, default=50.0, help="decibels below the loudest part; default: %(default)g")
    parser.add_argument(
        "--keep", type=float, default=0.1, metavar="SECONDS", help="silence to keep at each end; default: 0.1"
    )
    parser.add_argument("--speakers", choices=("folders", "column"), help="as in prepare_filelists.py")
    return parser


def main() -> None:
    args = parser().parse_args()
    if not (0 < args.db < math.inf and 0 <= args.keep < math.inf):
        raise UserError(f"--db {args.db} must be positive, --keep {args.keep} not negative, and both finite")
    before = after = 0.0
    with new_directory(args.target, "OUT") as part:
        rows = read_metadata(args.source, args.speakers)
        for clip, path, *_ in tqdm(rows, disable=None):
            audio, sample_rate = read_audio(args.source / path)
            trimmed = trim(audio, sample_rate, args.db, args.keep)
            target = part / "wavs" / f"{clip}.wav"
            make_directory(target.parent, "OUT")
            save_audio(target, trimmed, sample_rate)
            before, after = before + len(audio) / sample_rate, after + len(trimmed) / sample_rate
        with replacing(part / "metadata.csv") as temporary:
            shutil.copyfile(args.source / "metadata.csv", temporary)
    print(f"{args.target}: {counted(len(rows), 'clip')}, {after / 60:.1f} of {before / 60:.1f} minutes are left")


if __name__ == "__main__":
    run_command(main)
