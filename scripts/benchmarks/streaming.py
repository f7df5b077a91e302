"""Stream beginnings of a long text: time to the first audio, speed, and memory, by length.

    PYTHONPATH=scripts python -m benchmarks.streaming TEXT demo/voice --characters 10 100 1000 10000

The first audio is measured five times for each length. The memory is the peak of the process until then, so it grows
from one line to the next if it grows with the length.
"""

from __future__ import annotations

import checkout  # noqa: F401

import argparse
import resource
import statistics
import time
from pathlib import Path

from common.entry import run_command
from common.errors import UserError
from synthesis.synthesizer import Synthesizer

STARTS = 5


def first_audio_seconds(voice: Synthesizer, text: str) -> float:
    """From the text to the first part of its audio."""
    start = time.perf_counter()
    next(voice.stream(text))
    return time.perf_counter() - start


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="text file")
    parser.add_argument("voice", help="name or folder of a voice")
    lengths = [10, 100, 1000, 10_000]
    parser.add_argument("--characters", type=int, nargs="+", default=lengths, help="lengths of the beginnings")
    return parser


def main() -> None:
    options = parser().parse_args()
    text = read_text(options.text)
    voice = Synthesizer.load(options.voice, device="cpu")
    voice.warm_up()
    print("characters  1st audio s  longest  audio s    RTF  memory MB")
    for length in sorted(options.characters):
        part = text[:length]
        starts = [first_audio_seconds(voice, part) for _ in range(STARTS)]
        start = time.perf_counter()
        seconds = sum(map(len, voice.stream(part))) / voice.audio.sample_rate
        rtf = (time.perf_counter() - start) / seconds
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kB on Linux
        print(
            f"{len(part):10}  {statistics.median(starts):11.3f}  {max(starts):7.3f}  {seconds:7.1f}  {rtf:.3f}  "
            f"{memory:9.0f}",
            flush=True,
        )


if __name__ == "__main__":
    run_command(main)
