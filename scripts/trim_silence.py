"""Copy a corpus with the silence cut off the ends of its clips: with little data attention learns sooner.

    python scripts/trim_silence.py DIR OUT [--db 50] [--keep 0.1]

DIR holds metadata.csv and wavs/; OUT gets the same metadata and the clips as 16-bit wavs of their own sample rate, each
from --keep seconds before its first sound to as much after its last. Sound is what is at most --db below the loudest
moment of the clip. DIR is left as it is.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import librosa
import numpy as np
import soundfile
from tqdm import tqdm

from common.entry import fail
from common.errors import UserError, first_line, make_directory
from scripts.prepare_filelists import read_metadata


def trim(audio: np.ndarray, sample_rate: int, db: float, keep: float) -> np.ndarray:
    """audio (N) or (N, channels) without its silent ends, but for `keep` seconds of each."""
    loudness = audio if audio.ndim == 1 else audio.mean(axis=1)
    _, (first, end) = librosa.effects.trim(loudness, top_db=db)
    margin = round(keep * sample_rate)
    return audio[max(first - margin, 0) : end + margin]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="DIR")
    parser.add_argument("target", type=Path, metavar="OUT", help="directory to make; it must not exist")
    parser.add_argument("--db", type=float, default=50.0)
    parser.add_argument("--keep", type=float, default=0.1, metavar="SECONDS")
    return parser


def main() -> None:
    args = parser().parse_args()
    if args.target.exists():
        raise UserError(f"{args.target} exists already; choose another OUT or remove it")
    if args.db <= 0 or args.keep < 0:
        raise UserError(f"--db {args.db} must be positive, --keep {args.keep} not negative")
    rows = read_metadata(args.source)
    part = args.target.with_name(f"{args.target.name}.part")  # whole, or not there
    shutil.rmtree(part, ignore_errors=True)
    make_directory(part / "wavs", "OUT")
    before = after = 0.0
    for clip, path, _ in tqdm(rows, disable=None):
        try:
            audio, sample_rate = soundfile.read(args.source / path, dtype="float32")
        except (soundfile.LibsndfileError, OSError) as error:
            raise UserError(f"{args.source / path}: {first_line(error)}; replace it or remove its row") from error
        trimmed = trim(audio, sample_rate, args.db, args.keep)
        soundfile.write(part / "wavs" / f"{clip}.wav", trimmed, sample_rate, subtype="PCM_16")
        before, after = before + len(audio) / sample_rate, after + len(trimmed) / sample_rate
    shutil.copyfile(args.source / "metadata.csv", part / "metadata.csv")
    part.replace(args.target)
    print(f"{args.target}: {len(rows)} clips, {after / 60:.1f} of {before / 60:.1f} minutes are left")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        fail(str(error))
