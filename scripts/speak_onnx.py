"""Synthesize a text file with the output of scripts/export_onnx.py: onnxruntime and NumPy, without PyTorch.

    pip install -r requirements-onnx-runtime.txt
    python scripts/speak_onnx.py ONNX_DIR phrases.txt OUTPUT_DIR

Each non-blank line makes one wav, as with inference.py. ONNX_DIR also holds a copy of this script and of all that it
imports, so another machine needs only ONNX_DIR and the packages:

    pip install -r ONNX_DIR/requirements-onnx-runtime.txt
    python ONNX_DIR/scripts/speak_onnx.py ONNX_DIR phrases.txt OUTPUT_DIR
"""

from __future__ import annotations

import checkout  # noqa: F401

import argparse
import io
import time
from pathlib import Path

from common.data.filelist import read_lines
from common.entry import run_command
from common.files import make_directory, refuse_existing, replacing
from common.lock import locked
from synthesis.onnx.files import read_config


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # the defaults are those of SpeechOptions
    )
    parser.add_argument("directory", type=Path, help="output of export_onnx.py")
    parser.add_argument("input", help="text file, one phrase on each line")
    parser.add_argument("output", type=Path, help="directory for 0000.wav, 0001.wav, ...")
    parser.add_argument("--seed", type=int, help="of the dropout and the noise; default: 0")
    parser.add_argument("--sigma", type=float, help="standard deviation of the noise, instead of the model's own")
    parser.add_argument("--denoiser-strength", type=float, help="0: no denoiser; default: 0.01")
    parser.add_argument("--match-mel", type=int, help="passes of the mel match, instead of the model's own number")
    parser.add_argument("--max-steps", type=int, help="limit of decoder steps, instead of the model's own")
    parser.add_argument("--speaker", metavar="NAME", help="of a voice with several speakers")
    parser.add_argument("--lexicon", help="file of words and how to read them, as with inference.py")
    return parser


def main() -> None:
    options = vars(parser().parse_args())
    directory, source, output = (options.pop(name) for name in ("directory", "input", "output"))
    lexicon = options.pop("lexicon", None)
    read_config(directory)  # checks that the packages are installed, before they are imported
    import numpy as np
    import soundfile

    from synthesis.onnx.voice import SpeechOptions, Voice
    from synthesis.sentences import CUT_OFF
    from tacotron2.text import left_out

    SpeechOptions(**options)  # raises UserError
    lines = read_lines(source, "input")
    paths = [output / f"{i:04d}.wav" for i in range(len(lines))]
    refuse_existing(paths, "choose another output directory")
    voice = Voice(directory, lexicon)
    make_directory(output, "output")
    seconds = audio_seconds = 0.0
    with locked(output, "output"):
        refuse_existing(paths, "choose another output directory")  # another process may have written them since
        for path, (number, text) in zip(paths, lines, strict=True):
            where = f"{source}:{number}"
            if dropped := voice.dropped(text):
                print(f"warning: {where}: {left_out(dropped)}")
            start = time.perf_counter()
            speech = voice.speak(text, **options)
            took, length = time.perf_counter() - start, len(speech.audio) / voice.sample_rate
            if not length:
                print(f"warning: {where}: nothing to say in {text[:60]!r}; {path.name} is not written")
                continue
            if speech.num_pieces > 1:
                print(f"{where}: synthesized in {speech.num_pieces} pieces into {path.name}")
            if speech.truncated:
                print(f"warning: {where}: {CUT_OFF.format(path.name, '--max-steps')}")
            wav = io.BytesIO()  # because soundfile fails an assertion when it cannot write to the disk
            soundfile.write(wav, np.clip(speech.audio, -1, 1), voice.sample_rate, subtype="PCM_16", format="WAV")
            with replacing(path, durable=False) as temporary:
                temporary.write_bytes(wav.getbuffer())
            print(f"{path}  {length:.2f} s  RTF {took / length:.3f} ({length / took:.2f} x real time)", flush=True)
            seconds, audio_seconds = seconds + took, audio_seconds + length
    if audio_seconds:
        rtf = seconds / audio_seconds
        print(f"total {audio_seconds:.2f} s of speech, RTF {rtf:.3f} ({1 / rtf:.2f} x real time)")


if __name__ == "__main__":
    run_command(main)
