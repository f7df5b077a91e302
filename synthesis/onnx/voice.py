"""Synthesis with exported graphs: onnxruntime and NumPy, without PyTorch.

The code is written to be read, and to be copied into other programs.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from common.errors import UserError
from tacotron2.text import encode


class Voice:
    """The four graphs of an export and the loop around them."""

    def __init__(self, directory: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError("onnxruntime is not installed; run in the repository: pip install -e '.[onnx]'") from error
        try:
            self.config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
            self.encoder, self.decoder_step, self.postnet, self.waveglow = (
                onnxruntime.InferenceSession(str(directory / f"{name}.onnx"), providers=["CPUExecutionProvider"])
                for name in ("encoder", "decoder_step", "postnet", "waveglow")
            )
        except Exception as error:  # onnxruntime's errors have no common type
            reason = str(error)[:200]
            raise UserError(f"{directory}: not an export ({reason}); run scripts/export_onnx.py first") from error
        self.sample_rate = self.config["audio"]["sample_rate"]

    def ids(self, text: str) -> np.ndarray:
        """text -> (1, L)"""
        return np.array([encode(text, **self.config["text"]).ids], dtype=np.int64)

    def dropped(self, text: str) -> list[str]:
        """The characters of `text` that the model has no symbol for."""
        return encode(text, **self.config["text"]).dropped

    def mel(self, ids: np.ndarray, rng: np.random.Generator, max_steps: int | None = None) -> tuple[np.ndarray, bool]:
        """ids (1, L) -> mel (1, n_mels, T), truncated. Decodes until the gate opens or the steps are used up."""
        config = self.config["tacotron2"]
        lengths = np.array([ids.shape[1]])
        memory, keys = self.encoder.run(None, {"text": ids, "text_lengths": lengths})
        sizes = config | {"length": ids.shape[1]}
        state = {name: np.zeros((1, sizes[size]), np.float32) for name, size in self.config["state"].items()}
        frames = np.zeros((1, config["n_mel_channels"] * config["n_frames_per_step"]), np.float32)
        keep = 1 - config["prenet_dropout"]  # the prenet's dropout is always on: it gives the voice its variety
        steps = []
        for _ in range(max_steps or config["max_decoder_steps"]):
            masks = (rng.random((2, 1, config["prenet_dim"])) < keep).astype(np.float32) / np.float32(keep)
            inputs = {"frames": frames, "prenet_masks": masks, "memory": memory, "keys": keys, "text_lengths": lengths}
            frames, gate, *following = self.decoder_step.run(None, inputs | state)
            state = dict(zip(state, following, strict=True))
            steps.append(frames)
            if 1 / (1 + np.exp(-gate[0])) > config["gate_threshold"]:
                truncated = False
                break
        else:
            truncated = True
        # (S, 1, n_mels * r) -> (1, n_mels, S * r)
        mel = np.stack(steps).reshape(1, -1, config["n_mel_channels"]).transpose(0, 2, 1)
        mel = self.postnet.run(None, {"mel": mel, "mel_lengths": np.array([mel.shape[2]])})[0]
        return mel, truncated

    def audio(self, mel: np.ndarray, rng: np.random.Generator, sigma: float | None = None) -> np.ndarray:
        """mel (1, n_mels, T) -> samples (N)"""
        config = self.config["waveglow"]
        num_groups = mel.shape[2] * config["hop_length"] // config["n_group"]
        sigma = config["sigma"] if sigma is None else sigma
        z = np.float32(sigma) * rng.standard_normal((1, config["n_group"], num_groups), dtype=np.float32)
        audio: np.ndarray = self.waveglow.run(None, {"mel": mel, "z": z})[0][0]
        return audio

    def speak(self, text: str, seed: int = 0, max_steps: int | None = None) -> tuple[np.ndarray, bool]:
        """text -> samples (N), empty if there is nothing to say, and whether the decoder had to be stopped"""
        rng = np.random.default_rng(seed)
        ids = self.ids(text)
        if not ids.size:
            return np.zeros(0, np.float32), False
        mel, truncated = self.mel(ids, rng, max_steps)
        return self.audio(mel, rng), truncated
