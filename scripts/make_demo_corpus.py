"""Regenerate the bundled corpus, demo/corpus and demo/unseen: one synthetic voice reading public-domain sentences.

    pip install hibari-tts==0.2.1
    python scripts/make_demo_corpus.py path/to/LJSpeech-1.1/metadata.csv

Only this script needs hibari-tts (Apache-2.0; the wheel contains the voice). The sentences are rows of LJSpeech's
metadata (public domain), chosen by a fixed rule, so that the same inputs give the same clips. Rows of LJSpeech's own
validation and test splits are left out. In demo/unseen the same voice reads filelists/unseen_sentences.txt, sentences
that are not in the corpus, to evaluate voices trained on the corpus.
"""

from __future__ import annotations

import checkout

import argparse
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from common.entry import run_command
from common.errors import UserError
from common.wording import counted

SAMPLE_RATE = 22050  # Hz; the voice outputs 24,000 Hz, and 22,050 / 24,000 = 147 / 160
EDGE_SECONDS = 0.1  # silence to keep before and after the speech
SILENCE = 0.005  # peak amplitude, full scale 1
COMPRESSION = 0.6  # of libsndfile's Vorbis, 0 (large) to 1 (small): about 49 kbit/s here
WHOLE_SENTENCE = re.compile(r"[A-Z][A-Za-z ,;'-]*[.?!]")


def choose_sentences(metadata: Path) -> list[tuple[str, str]]:
    """(id, text) of rows that are one plain sentence of 25 to 110 characters, in a fixed random order."""
    split = json.loads((checkout.REPOSITORY / "filelists" / "ljspeech_split.json").read_text())
    held_out = {*split["val"], *split["test"]}
    rows = [line.split("|") for line in metadata.read_text(encoding="utf-8").splitlines()]
    sentences = [
        (row[0], row[2].strip())
        for row in rows
        if row[0] not in held_out and 25 <= len(row[2].strip()) <= 110 and WHOLE_SENTENCE.fullmatch(row[2].strip())
    ]
    random.Random(0).shuffle(sentences)
    return sentences


def trim(audio: np.ndarray) -> np.ndarray:
    """`audio` (N) without the silence at its ends, except for EDGE_SECONDS."""
    loud = np.flatnonzero(np.abs(audio) > SILENCE)
    edge = round(EDGE_SECONDS * SAMPLE_RATE)
    return audio[max(loud[0] - edge, 0) : loud[-1] + edge]


def read(voice: Callable[..., np.ndarray], text: str, path: Path) -> float:
    """Synthesize `text` with the voice, write it to `path`, and return its length in seconds."""
    audio = trim(resample_poly(voice(text, seed=0), 147, 160).astype(np.float32))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, SAMPLE_RATE, format="OGG", subtype="VORBIS", compression_level=COMPRESSION)
    return len(audio) / SAMPLE_RATE


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metadata", type=Path, help="metadata.csv of LJSpeech 1.1")
    demo = checkout.REPOSITORY / "demo"
    parser.add_argument("--output", type=Path, default=demo, help="directory for corpus/ and unseen/; default: demo")
    parser.add_argument("--minutes", type=float, default=27.5, help="length of the corpus; default: %(default)g")
    return parser


def main() -> None:
    args = parser().parse_args()
    try:
        from hibari import Hibari
    except ImportError as error:
        raise UserError("hibari-tts is not installed; run: pip install hibari-tts==0.2.1") from error

    voice = Hibari(threads=1)
    rows, seconds = [], 0.0
    for source_id, text in choose_sentences(args.metadata):
        if seconds >= args.minutes * 60:
            break
        clip = f"HB-{source_id}"
        seconds += read(voice, text, args.output / "corpus" / "wavs" / f"{clip}.ogg")
        rows.append(f"{clip}|{text}|{text}\n")
    (args.output / "corpus" / "metadata.csv").write_text("".join(sorted(rows)), encoding="utf-8")
    print(f"{counted(len(rows), 'clip')}, {seconds / 60:.1f} minutes in {args.output / 'corpus'}")

    rows = []
    unseen = (checkout.REPOSITORY / "filelists" / "unseen_sentences.txt").read_text(encoding="utf-8").splitlines()
    for number, text in enumerate(unseen):
        clip = f"wavs/HB-unseen-{number:02d}.ogg"
        read(voice, text, args.output / "unseen" / clip)
        rows.append(f"{clip}|{text}\n")
    (args.output / "unseen" / "filelist.txt").write_text("".join(rows), encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
