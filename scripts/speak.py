"""Speak a text: through the loudspeaker, into a file, or to another program.

    python scripts/speak.py "Hello there."                          the loudspeaker: pip install sounddevice
    python scripts/speak.py "Hello there." -o hello.mp3             wav, flac, ogg, mp3, opus or aac
    python scripts/speak.py -o book.flac < book.txt                 standard input, spoken while it arrives
    python scripts/speak.py "Hello there." -o - | aplay             wav for another program
    python scripts/speak.py "Hello there." --url http://127.0.0.1:8000    by a server of scripts/serve.py

A file appears when it is whole: Ctrl-C or an error leaves none.
"""

from __future__ import annotations

from checkout import REPOSITORY

import argparse
import os
import sys
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING

from common.entry import run_command
from common.errors import UserError
from common.files import refuse_existing

if TYPE_CHECKING:
    from synthesis.local_speech import LocalSpeech
    from synthesis.sinks import Write
    from synthesis.speech_client import Speech

FORMATS = ("wav", "flac", "ogg", "mp3", "opus", "aac")
KEY = "TTS_API_KEY"
HERE = ("device", "seed", "speaker")  # options of speech that is made here


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", help="what to speak; default: standard input")
    parser.add_argument("-o", "--output", metavar="FILE", help="-: standard output; default: the loudspeaker")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--format", choices=FORMATS, help="of the output; default: by the suffix of FILE, else wav")
    parser.add_argument("--voice", help="folder or name of a voice, or a name on the server; default: the bundled one, "
                        "or the first of the server")  # fmt: skip
    parser.add_argument("--speaker", metavar="NAME", help="of a voice with several; of a server: --voice VOICE/NAME")
    parser.add_argument("--speed", type=float, default=1.0, help="0.25 to 4; default: 1")
    parser.add_argument("--ssml", action="store_true", help="the text is SSML, see docs/ssml.md")
    parser.add_argument("--seed", type=int, help="of the dropout and the noise; default: 0")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="default: auto, a GPU if there is one")
    parser.add_argument("--url", help="address of a server, which speaks in place of this machine")
    parser.add_argument("--key", help=f"key of the server; default: the environment variable {KEY}, which others on "
                        "this machine cannot see")  # fmt: skip
    return parser


def main() -> None:
    options = parser().parse_args()
    check(options)
    from tqdm import tqdm

    speech = from_server(options) if options.url else from_here(options)
    num_samples = 0
    bar = tqdm(disable=None, bar_format="{n:.1f} s of speech after {elapsed}")
    with closing(speech), bar, sink(options, speech.sample_rate) as write:
        for audio in speech:
            write(audio)
            num_samples += len(audio)
            bar.update(len(audio) / speech.sample_rate)
    if options.output not in (None, "-"):
        print(f"{options.output}  {num_samples / speech.sample_rate:.2f} s")


def check(options: argparse.Namespace) -> None:
    """Raise a UserError for what is wrong before anything slow begins."""
    if options.url:
        if wrong := [name for name in HERE if getattr(options, name) is not None]:
            raise UserError(f"--{wrong[0]} is not for a server, which has its own; remove it, or --url")
    elif options.key is not None:
        raise UserError("--key is for a server; add --url, or remove it")
    from synthesis import sinks

    if options.output is None:
        if options.format:
            raise UserError("--format is not for the loudspeaker; add -o FILE, or remove it")
        sinks.check_loudspeaker()
    elif options.output != "-":
        path = Path(options.output)
        options.format = options.format or sinks.format_of(path)
        if not options.overwrite:
            refuse_existing([path], "choose another -o FILE, or add --overwrite")
        if path.is_dir() or not path.parent.is_dir():
            raise UserError(f"{path}: no file can be there; choose another -o FILE, or create its directory")
    options.format = options.format or "wav"
    sinks.check_format(options.format, is_streamed=options.output == "-")


def from_here(options: argparse.Namespace) -> LocalSpeech:
    """Speech of this machine."""
    from common.schema import check as check_value
    from synthesis.local_speech import LocalSpeech
    from synthesis.options import SpeechOptions
    from synthesis.scheduler.script import marked_up, plain
    from synthesis.speed import Speed
    from synthesis.synthesizer import Synthesizer
    from synthesis.voices import Voice

    check_value(options.speed, Speed, "--speed")
    chosen = SpeechOptions(seed=options.seed or 0)
    found = Voice.find(options.voice or REPOSITORY / "demo/voice")
    voice = Synthesizer.load(found, device=options.device or "auto", speaker=options.speaker)
    if options.ssml:
        passages = marked_up(whole_text(options), chosen.pauses, options.speed, voice.reader)
        return LocalSpeech(voice, passages, options.speed, chosen)
    if options.text is not None:
        return LocalSpeech(voice, [plain(options.text)], options.speed, chosen)
    if sys.stdin.isatty():
        print("type a text; Ctrl-D ends it", file=sys.stderr)
    return LocalSpeech(voice, sys.stdin.fileno(), options.speed, chosen)


def from_server(options: argparse.Namespace) -> Speech:
    """Speech of a server."""
    from synthesis.speech_client import SpeechClient

    key = options.key if options.key is not None else os.environ.get(KEY)
    client = SpeechClient(options.url, key or None)
    return client.speak(whole_text(options), options.voice, options.speed, "ssml" if options.ssml else "text")


def whole_text(options: argparse.Namespace) -> str:
    """The text, or all of standard input."""
    if options.text is not None:
        return str(options.text)
    if sys.stdin.isatty():
        print("type a text; Ctrl-D ends it", file=sys.stderr)
    with open(sys.stdin.fileno(), "rb", closefd=False) as file:
        try:
            return file.read().decode()
        except UnicodeDecodeError:
            raise UserError("standard input is not UTF-8; convert it: iconv -t UTF-8") from None


def sink(options: argparse.Namespace, sample_rate: int) -> AbstractContextManager[Write]:
    """Where the audio goes."""
    from synthesis import sinks

    if options.output is None:
        return sinks.to_loudspeaker(sample_rate)
    if options.output == "-":
        return sinks.to_stream(sys.stdout.buffer, options.format, sample_rate)
    return sinks.to_file(Path(options.output), options.format, sample_rate)


if __name__ == "__main__":
    run_command(main)
