"""Create a tiny corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from tests.helpers.commands import run_here

SENTENCES = [
    "The first line.",
    "A second one, somewhat longer.",
    "Three.",
    "In 1851 it was 4 feet long.",
    "Why not?",
    "He said so himself.",
    "Nothing came of it, though.",
    "The last of them all.",
]


def tone(seconds: float, seed: int) -> np.ndarray:
    """Return a gliding tone with some noise, sampled at 22,050 Hz."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * 22050)) / 22050
    pitch = 120 + 80 * rng.random() + 40 * t
    wave = sum(np.sin(2 * np.pi * k * pitch * t) / k for k in range(1, 9))
    return (0.1 * wave + 0.005 * rng.standard_normal(len(t))).astype(np.float32)


def write_corpus(root: Path, sentences: list[str] = SENTENCES) -> Path:
    """Write a corpus in LJSpeech's layout with clips of 0.5 to 1.2 seconds, and return its root."""
    (root / "wavs").mkdir(parents=True)
    for i in range(len(sentences)):
        soundfile.write(root / "wavs" / f"clip{i}.wav", tone(0.5 + 0.1 * i, i), 22050)
    rows = [f"clip{i}|{text}|{text}\n" for i, text in enumerate(sentences)]
    (root / "metadata.csv").write_text("".join(rows), encoding="utf-8")
    return root


def write_speakers(root: Path, row: str = "{id}|{text}") -> Path:
    """Write the same clips as those of two speakers, anna and bert, in a folder each, and return the root.

    `row` is a row of metadata.csv, of {id}, {text}, {speaker} and {number}.
    """
    write_corpus(root)
    rows = []
    for i, text in enumerate(SENTENCES):
        speaker = "anna" if i < 4 else "bert"
        (root / "wavs" / speaker).mkdir(exist_ok=True)
        (root / f"wavs/clip{i}.wav").rename(root / f"wavs/{speaker}/clip{i}.wav")
        rows.append(row.format(id=f"{speaker}/clip{i}", text=text, speaker=speaker, number=i) + "\n")
    (root / "metadata.csv").write_text("".join(rows), encoding="utf-8")
    return root


def prepare_speakers(root: Path) -> Path:
    """Write and prepare a corpus of two speakers, and return its root."""
    write_speakers(root)
    run_here("scripts/prepare_filelists.py", root, "--speakers", "folders")
    run_here("scripts/prepare_mels.py", f"data.root={root}", "num_processes=1")
    return root


def prepare(root: Path) -> Path:
    """Make the filelists and mels of a corpus, and return its root."""
    run_here("scripts/prepare_filelists.py", root)
    run_here("scripts/prepare_mels.py", f"data.root={root}", "num_processes=1")
    return root
