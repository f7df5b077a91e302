"""Synthesize a text file with the graphs of scripts/export_onnx.py: onnxruntime and NumPy, without PyTorch.

    python scripts/speak_onnx.py ONNX_DIR phrases.txt OUTPUT_DIR

Each non-blank line makes one wav, as with inference.py, but without the denoiser and the mel match, and long lines are
not split. The loop around the graphs is in synthesis/onnx/voice.py.
"""

from __future__ import annotations

import checkout  # noqa: F401

import argparse
from pathlib import Path

import numpy as np
import soundfile

from common.data.filelist import read_lines
from common.entry import run_command
from common.files import make_directory, refuse_existing
from synthesis.onnx.voice import Voice


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="output of export_onnx.py")
    parser.add_argument("input", help="text file, one phrase on each line")
    parser.add_argument("output", type=Path, help="directory for 0000.wav, 0001.wav, ...")
    parser.add_argument("--seed", type=int, default=0, help="of the dropout and the noise; default: 0")
    parser.add_argument("--max-steps", type=int, help="limit of decoder steps, instead of the model's own")
    return parser


def main() -> None:
    options = parser().parse_args()
    voice = Voice(options.directory)
    lines = read_lines(options.input, "input")
    paths = [options.output / f"{i:04d}.wav" for i in range(len(lines))]
    refuse_existing(paths, "choose another output directory")
    make_directory(options.output, "output")
    for path, (number, text) in zip(paths, lines, strict=True):
        where = f"{options.input}:{number}"
        if dropped := voice.dropped(text):
            print(f"warning: {where}: left out, because the model has no symbol for them: {' '.join(dropped)}")
        samples, truncated = voice.speak(text, options.seed, options.max_steps)
        if not samples.size:
            print(f"warning: {where}: nothing to say in {text[:60]!r}; {path.name} is not written")
            continue
        if truncated:
            print(f"warning: {where}: the decoder did not stop by itself; {path.name} ends at the step limit")
        soundfile.write(path, np.clip(samples, -1, 1), voice.sample_rate, subtype="PCM_16")
        print(f"{path}  {len(samples) / voice.sample_rate:.2f} s", flush=True)


if __name__ == "__main__":
    run_command(main)
