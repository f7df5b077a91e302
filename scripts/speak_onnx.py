"""Speak a text file with what scripts/export_onnx.py wrote: onnxruntime and numpy, without PyTorch.

    python scripts/speak_onnx.py ONNX_DIR phrases.txt OUTPUT_DIR

One non-blank line makes one wav, as with inference.py, but without its denoiser and match_mel. `Voice` is meant to be
read, and copied into other programs.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import soundfile

from common.data.filelist import read_lines
from common.entry import fail
from common.errors import UserError, make_directory
from tacotron2.text import text_to_ids, unknown_characters


class Voice:
    """The four graphs of an export, and the loop around them."""

    def __init__(self, directory: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError("onnxruntime is not installed; run: pip install -r requirements-onnx.txt") from error
        try:
            self.config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
            self.encoder, self.decoder_step, self.postnet, self.waveglow = (
                onnxruntime.InferenceSession(str(directory / f"{name}.onnx"), providers=["CPUExecutionProvider"])
                for name in ("encoder", "decoder_step", "postnet", "waveglow")
            )
        except Exception as error:  # onnxruntime's own have no common type
            raise UserError(f"{directory}: not an export of scripts/export_onnx.py ({str(error)[:200]})") from error
        self.sample_rate = self.config["audio"]["sample_rate"]

    def ids(self, text: str) -> np.ndarray:
        """text -> (1, L)"""
        return np.array([text_to_ids(text, **self.config["text"])], dtype=np.int64)

    def mel(self, ids: np.ndarray, rng: np.random.Generator, max_steps: int | None = None) -> tuple[np.ndarray, bool]:
        """ids (1, L) -> mel (1, n_mels, T), truncated: frames are decoded until the gate opens, or the steps end."""
        config = self.config["tacotron2"]
        lengths = np.array([ids.shape[1]])
        memory, keys = self.encoder.run(None, {"text": ids, "text_lengths": lengths})
        sizes = config | {"length": ids.shape[1]}
        state = {name: np.zeros((1, sizes[size]), np.float32) for name, size in self.config["state"].items()}
        frames = np.zeros((1, config["n_mel_channels"] * config["n_frames_per_step"]), np.float32)
        keep = 1 - config["prenet_dropout"]  # the prenet's dropout is never off: it gives the voice its variety
        spoken = []
        for _ in range(max_steps or config["max_decoder_steps"]):
            masks = (rng.random((2, 1, config["prenet_dim"])) < keep).astype(np.float32) / np.float32(keep)
            inputs = {"frames": frames, "prenet_masks": masks, "memory": memory, "keys": keys, "text_lengths": lengths}
            frames, gate, *following = self.decoder_step.run(None, inputs | state)
            state = dict(zip(state, following, strict=True))
            spoken.append(frames)
            if 1 / (1 + np.exp(-gate[0])) > config["gate_threshold"]:
                truncated = False
                break
        else:
            truncated = True
        # (S, 1, n_mels * r) -> (1, n_mels, S * r)
        mel = np.stack(spoken).reshape(1, -1, config["n_mel_channels"]).transpose(0, 2, 1)
        return self.postnet.run(None, {"mel": mel, "mel_lengths": np.array([mel.shape[2]])})[0], truncated

    def audio(self, mel: np.ndarray, rng: np.random.Generator, sigma: float | None = None) -> np.ndarray:
        """mel (1, n_mels, T) -> samples (N)"""
        config = self.config["waveglow"]
        num_groups = mel.shape[2] * config["hop_length"] // config["n_group"]
        sigma = config["sigma"] if sigma is None else sigma
        z = np.float32(sigma) * rng.standard_normal((1, config["n_group"], num_groups), dtype=np.float32)
        return self.waveglow.run(None, {"mel": mel, "z": z})[0][0]

    def speak(self, text: str, seed: int = 0, max_steps: int | None = None) -> tuple[np.ndarray, bool]:
        """text -> samples (N), none if nothing of it can be said; whether the decoder had to be stopped"""
        rng = np.random.default_rng(seed)
        ids = self.ids(text)
        if not ids.size:
            return np.zeros(0, np.float32), False
        mel, truncated = self.mel(ids, rng, max_steps)
        return self.audio(mel, rng), truncated


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="what export_onnx.py wrote")
    parser.add_argument("input", help="text file, one phrase a line")
    parser.add_argument("output", type=Path, help="directory for 0000.wav, 0001.wav, ...")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-steps", type=int, help="decoder steps at most, instead of the model's own")
    return parser


def main() -> None:
    options = parser().parse_args()
    voice = Voice(options.directory)
    lines = read_lines(options.input, "input")
    paths = [options.output / f"{i:04d}.wav" for i in range(len(lines))]
    if taken := [path for path in paths if path.exists()]:
        raise UserError(f"{taken[0]} exists already; choose another output directory")
    make_directory(options.output, "output")
    warnings.simplefilter("ignore")  # on dropped characters: they are named here, with their line
    for path, (number, text) in zip(paths, lines, strict=True):
        if dropped := unknown_characters(text, **voice.config["text"]):
            print(f"warning: {options.input}:{number}: not spoken, no symbols of the model: {' '.join(dropped)}")
        samples, truncated = voice.speak(text, options.seed, options.max_steps)
        if not samples.size:
            print(f"warning: {options.input}:{number}: nothing to say in {text[:60]!r}; {path.name} is left out")
            continue
        if truncated:
            where = f"{options.input}:{number}"
            print(f"warning: {where}: the decoder did not stop by itself; {path.name} ends at the step limit")
        soundfile.write(path, np.clip(samples, -1, 1), voice.sample_rate, subtype="PCM_16")
        print(f"{path}  {len(samples) / voice.sample_rate:.2f} s", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        fail(str(error))
