"""Regenerate the bundled corpus, demo/corpus and demo/unseen: one synthetic voice reading public-domain sentences.

    pip install hibari-tts==0.2.1
    python scripts/make_demo_corpus.py path/to/LJSpeech-1.1/metadata.csv

Only this script needs hibari-tts (Apache-2.0; the wheel contains the voice). The sentences are rows of LJSpeech's
metadata (public domain), chosen by a fixed rule, so that the same inputs give the same clips. Rows of LJSpeech's own
validation and test splits are left out. In demo/unseen the same voice reads filelists/unseen_sentences.txt, sentences
that are not in the corpus, to evaluate voices trained on the corpus.

More speech of the same voice, which begins with the bundled corpus (8 hours take about 10 minutes on 2 cores):

    python scripts/make_demo_corpus.py path/to/LJSpeech-1.1/metadata.csv --hours 8 --format flac --output data/demo8
"""

from __future__ import annotations

import checkout

import argparse
import contextlib
import json
import random
import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from scipy.signal import resample_poly

from common.entry import run_command
from common.errors import UserError
from common.files import refuse_existing
from common.parallel import in_parallel
from common.wording import counted

SAMPLE_RATE = 22050  # Hz; the voice outputs 24,000 Hz, and 22,050 / 24,000 = 147 / 160
EDGE_SECONDS = 0.1  # silence to keep before and after the speech
SILENCE = 0.005  # peak amplitude, full scale 1
COMPRESSION = 0.6  # of libsndfile's Vorbis, 0 (large) to 1 (small): about 49 kbit/s here
WHOLE_SENTENCE = re.compile(r"[A-Z][A-Za-z ,;'-]*[.?!]")
BUNDLED_HOURS = 27.5 / 60
LENGTHS = range(25, 191)  # characters of a row; the longest take about 10 seconds
DEMO = checkout.REPOSITORY / "demo"
UNSEEN = checkout.REPOSITORY / "filelists" / "unseen_sentences.txt"


def choose_sentences(metadata: Path) -> list[tuple[str, str]]:
    """(id, text) of rows in a fixed random order: plain sentences of 25 to 110 characters, then all others.

    Rows that LJSpeech holds out are not among them, nor are the sentences with which voices are evaluated.
    """
    split = json.loads((checkout.REPOSITORY / "filelists" / "ljspeech_split.json").read_text())
    held_out = {*split["val"], *split["test"]}
    unseen = set(UNSEEN.read_text(encoding="utf-8").splitlines())
    lines = (line.split("|") for line in metadata.read_text(encoding="utf-8").splitlines())
    rows = [(row[0], row[2].strip()) for row in lines if row[0] not in held_out]
    plain, others = list[tuple[str, str]](), list[tuple[str, str]]()
    for row in rows:
        if 25 <= len(row[1]) <= 110 and WHOLE_SENTENCE.fullmatch(row[1]):
            plain.append(row)
        elif len(row[1]) in LENGTHS:
            others.append(row)
    for part in (plain, others):
        random.Random(0).shuffle(part)
    return [row for row in plain + others if row[1] not in unseen]


def trim(audio: np.ndarray) -> np.ndarray:
    """`audio` (N) without the silence at its ends, except for EDGE_SECONDS."""
    loud = np.flatnonzero(np.abs(audio) > SILENCE)
    edge = round(EDGE_SECONDS * SAMPLE_RATE)
    return audio[max(loud[0] - edge, 0) : loud[-1] + edge]


@cache
def load_voice() -> Any:
    """The voice, once in each process."""
    try:
        from hibari import Hibari
    except ImportError as error:
        raise UserError("hibari-tts is not installed; run: pip install hibari-tts==0.2.1") from error
    return Hibari(threads=1)


def read(job: tuple[str, Path], kind: str) -> float:
    """Synthesize a text to a file, and return its length in seconds."""
    text, path = job
    audio = trim(resample_poly(load_voice()(text, seed=0), 147, 160).astype(np.float32))
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "ogg":
        soundfile.write(path, audio, SAMPLE_RATE, format="OGG", subtype="VORBIS", compression_level=COMPRESSION)
    else:
        soundfile.write(path, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return len(audio) / SAMPLE_RATE


def make_corpus(metadata: Path, output: Path, hours: float, kind: str) -> None:
    """Read sentences until there are so many hours of speech."""
    jobs = [(text, output / "wavs" / f"HB-{source}.{kind}") for source, text in choose_sentences(metadata)]
    rows, seconds = list[str](), 0.0
    with contextlib.closing(in_parallel(partial(read, kind=kind), jobs, None, "clip")) as lengths:
        for (text, path), length in zip(jobs, lengths, strict=True):
            rows.append(f"{path.stem}|{text}|{text}\n")
            seconds += length
            if seconds >= 3600 * hours:
                break
        else:
            raise UserError(f"--hours={hours:g}: the rows of {metadata} give {seconds / 3600:.1f} hours; ask for less")
    for _, path in jobs[len(rows) :]:  # what was read ahead
        path.unlink(missing_ok=True)
    (output / "metadata.csv").write_text("".join(sorted(rows)), encoding="utf-8")
    print(f"{counted(len(rows), 'clip')}, {seconds / 60:.1f} minutes in {output}")


def make_unseen(output: Path) -> None:
    """Read the sentences with which voices are evaluated."""
    texts = UNSEEN.read_text(encoding="utf-8").splitlines()
    clips = [f"wavs/HB-unseen-{number:02d}.ogg" for number in range(len(texts))]
    jobs = [(text, output / clip) for text, clip in zip(texts, clips, strict=True)]
    list(in_parallel(partial(read, kind="ogg"), jobs, None, "clip"))
    rows = (f"{clip}|{text}\n" for clip, text in zip(clips, texts, strict=True))
    (output / "filelist.txt").write_text("".join(rows), encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metadata", type=Path, help="metadata.csv of LJSpeech 1.1")
    parser.add_argument("--output", type=Path, default=DEMO, help="directory for corpus/ and unseen/; default: demo")
    parser.add_argument("--hours", type=float, default=BUNDLED_HOURS, help="hours of speech; default: 27.5 minutes")
    parser.add_argument("--format", choices=("ogg", "flac"), default="ogg", help="of the corpus; default: %(default)s")
    return parser


def main() -> None:
    args = parser().parse_args()
    if args.output.resolve() != DEMO:
        refuse_existing([args.output / "corpus"], "choose another --output")
    elif (args.hours, args.format) != (BUNDLED_HOURS, "ogg"):
        raise UserError(f"--output={DEMO} is for the bundled corpus; choose another one for another length or format")
    make_corpus(args.metadata, args.output / "corpus", args.hours, args.format)
    make_unseen(args.output / "unseen")


if __name__ == "__main__":
    run_command(main)
