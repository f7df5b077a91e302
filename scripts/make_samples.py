"""Regenerate what README.md shows of the bundled voice: docs/samples/*.ogg and docs/images/speech.png.

    python scripts/make_samples.py [OUT]

The sentences are the first three of filelists/unseen_sentences.txt that are not from LJSpeech. They are not chosen by
ear. demo/unseen/wavs has the same sentences in the voice that the models were trained on.
"""

from __future__ import annotations

import checkout  # noqa: F401

import argparse
from pathlib import Path

import soundfile
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common.entry import run_command
from common.files import make_directory
from inference import Synthesizer, Utterance

REPOSITORY = Path(__file__).resolve().parent.parent
VOICE = REPOSITORY / "demo" / "voice"
SENTENCES = (14, 15, 16)


def picture(utterance: Utterance, title: str) -> Figure:
    """The alignment and the mel of one utterance, side by side."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = (
        (utterance.alignment.T, "symbol of the text", "alignment"),
        (utterance.mel, "mel band", "mel spectrogram"),
    )
    for axes, (image, label, name) in zip(figure.subplots(1, 2), panels, strict=True):
        axes.imshow(image.numpy(), aspect="auto", origin="lower", interpolation="none")
        axes.set(xlabel="mel frame", ylabel=label, title=name)
    return figure


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    docs, meaning = REPOSITORY / "docs", "directory for samples/ and images/; default: docs"
    parser.add_argument("output", nargs="?", type=Path, default=docs, metavar="OUT", help=meaning)
    return parser


def main() -> None:
    output = parser().parse_args().output
    make_directory(output / "samples", "OUT")
    make_directory(output / "images", "OUT")
    sentences = (REPOSITORY / "filelists" / "unseen_sentences.txt").read_text(encoding="utf-8").splitlines()
    voice = Synthesizer.load(VOICE / "tacotron2.safetensors", VOICE / "waveglow.safetensors", device="cpu")
    for number in SENTENCES:
        utterance, path = voice.speak(sentences[number]), output / "samples" / f"voice-{number}.ogg"
        soundfile.write(path, utterance.audio.numpy(), voice.audio.sample_rate, format="OGG", subtype="VORBIS")
        print(f"{path}  {utterance.stats['audio_seconds']:.1f} s  {sentences[number]}")
        if number == SENTENCES[0]:
            picture(utterance, f'"{sentences[number]}"').savefig(output / "images" / "speech.png", dpi=80)


if __name__ == "__main__":
    run_command(main)
