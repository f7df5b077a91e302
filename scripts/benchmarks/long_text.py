"""Read beginnings of a long text aloud: word error rate, speed, time to the first audio, and memory, by length.

    pip install -e '.[eval]'
    PYTHONPATH=scripts python -m benchmarks.long_text TEXT demo/voice --characters 3000 10000

Whisper tiny.en listens to each sentence on its own (evaluation/judges.py), and once more to all audio at once, by its
own method for long audio: window after window of 30 s. The second can skip or repeat words itself. "with loss" counts
the sentences in which three or more words in a row were not heard.
"""

from __future__ import annotations

import argparse
import resource
from pathlib import Path
from typing import NamedTuple

from common.entry import run_command
from evaluation.judges import Errors, Listener, errors, normalized, optional
from synthesis.synthesizer import Synthesizer
from synthesis.utterance import Utterance

from benchmarks.streaming import first_audio_seconds, read_text

LOST = 3  # words


class Heard(NamedTuple):
    """What the judge heard of all sentences, each on its own."""

    errors: Errors  # together
    num_sentences: int
    with_loss: int  # sentences in which a group of LOST or more words in a row was not heard


def by_sentence(utterance: Utterance, text: str, listener: Listener, sample_rate: int) -> Heard:
    """Judge each sentence, of one or more pieces, on its own."""
    audio, said, heard, with_loss = utterance.audio.numpy().clip(-1, 1), list[str](), list[str](), 0
    first = None
    for spoken in utterance.pieces:
        first = first or spoken
        if spoken.piece.pause in ("sentence", "paragraph", "end"):
            said.append(text[first.piece.start : spoken.piece.end])
            heard.append(listener(audio[first.start : spoken.end], sample_rate))
            with_loss += longest_loss(said[-1], heard[-1]) >= LOST
            first = None
    return Heard(errors(" ".join(said), " ".join(heard)), len(said), with_loss)


def longest_loss(said: str, heard: str) -> int:
    """The most words in a row that were not heard."""
    if not any(map(str.isalnum, heard)):
        return len(normalized(said).split())
    chunks = optional("jiwer").process_words(normalized(said), normalized(heard)).alignments[0]
    return max((c.ref_end_idx - c.ref_start_idx for c in chunks if c.type == "delete"), default=0)


def rate(found: Errors) -> str:
    return f"{100 * found.words_wrong / found.words:.1f} %"


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="text file")
    parser.add_argument("voice", help="name or folder of a voice")
    parser.add_argument("--characters", type=int, nargs="+", default=[3000], help="lengths of the beginnings")
    parser.add_argument("--plain", action="store_true", help="without any mark but apostrophes, in lower case")
    parser.add_argument("--wav", type=Path, help="write the audio of the longest to this file")
    return parser


def main() -> None:
    options = parser().parse_args()
    text = read_text(options.text)
    if options.plain:
        text = " ".join("".join(c if c.isalnum() or c == "'" else " " for c in text.lower()).split())
    voice, listener = Synthesizer.load(options.voice, device="cpu"), Listener()
    voice.warm_up()
    print(
        "characters  words  pieces  at step limit  sentences  with loss  WER by sentence  WER at once  audio s    RTF  "
        "1st audio s  memory MB"
    )
    for length in options.characters:
        part = text[:length].rpartition(" ")[0]
        utterance = voice.speak(part)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kB on Linux
        first_audio = first_audio_seconds(voice, part)
        audio, stats = utterance.audio.numpy().clip(-1, 1), utterance.stats
        heard = by_sentence(utterance, part, listener, voice.audio.sample_rate)
        whole = errors(part, listener(audio, voice.audio.sample_rate))
        print(
            f"{len(part):10}  {whole.words:5}  {utterance.num_pieces:6}  {utterance.truncated!s:>13}  "
            f"{heard.num_sentences:9}  {heard.with_loss:9}  {rate(heard.errors):>15}  {rate(whole):>11}  "
            f"{stats['audio_seconds']:7.1f}  {stats['rtf']:.3f}  {first_audio:11.2f}  {memory:9.0f}",
            flush=True,
        )
    if options.wav:
        import soundfile

        soundfile.write(options.wav, audio, voice.audio.sample_rate)


if __name__ == "__main__":
    run_command(main)
