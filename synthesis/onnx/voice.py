"""Synthesis with exported graphs: onnxruntime and NumPy, without PyTorch.

The code is written to be read, and to be copied into other programs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from common.errors import UserError, about, first_line
from common.schema import Count, Index, NonNegative, Options, Seed
from synthesis.onnx.corrections import Corrections
from synthesis.onnx.files import GRAPHS, read_config
from synthesis.reader import Reader
from synthesis.sentences import Pauses
from tacotron2.speaker_names import speaker_id
from tacotron2.text import Lexicon


@dataclass(frozen=True)
class SpeechOptions(Options):
    """How to synthesize. The seed and the text determine the audio."""

    seed: Seed = 0
    sigma: NonNegative | None = None  # standard deviation of WaveGlow's noise; None: the model's own
    denoiser_strength: NonNegative = 0.01  # 0: no denoiser
    match_mel: Index | None = None  # passes of the mel match; None: the model's own number
    max_steps: Count | None = None  # limit of decoder steps of a piece; None: the model's own
    pauses: Pauses = field(default_factory=Pauses)  # between the pieces of a text
    speaker: str | None = None  # of a voice with several


@dataclass(frozen=True)
class Speech:
    """The result for one text."""

    audio: np.ndarray  # samples (N), empty if there is nothing to say
    truncated: bool = False  # the decoder did not stop by itself, in one of the pieces
    num_pieces: int = 1


class Voice:
    """The files of an export and the loop around the graphs."""

    def __init__(self, directory: str | Path, lexicon: str | Path | None = None) -> None:
        words = None if lexicon is None else Lexicon.load(lexicon)
        directory = Path(directory)
        self.directory, self.config = directory, read_config(directory)
        try:
            self.encoder, self.decoder_step, self.postnet, self.waveglow = (
                onnxruntime.InferenceSession(str(directory / f"{name}.onnx"), providers=["CPUExecutionProvider"])
                for name in GRAPHS
            )
            self.corrections = Corrections(directory, self.config)
            self.sample_rate = self.config["audio"]["sample_rate"]
            self.reader = Reader(**self.config["text"], lexicon=words)
        except Exception as error:  # onnxruntime's errors have no common type
            raise UserError(
                f"{directory}: not a complete export ({first_line(error)}); run scripts/export_onnx.py again"
            ) from error

    def ids(self, text: str) -> list[int]:
        return self.reader.encode(text).ids

    def dropped(self, text: str) -> list[str]:
        """The characters of `text` that the model has no symbol for."""
        return self.reader.encode(text).dropped

    def mel(
        self, ids: list[int], rng: np.random.Generator, max_steps: int | None = None, speaker: str | None = None
    ) -> tuple[np.ndarray, bool]:
        """ids -> mel (n_mels, T), truncated. Decodes until the gate opens or the steps are used up.

        Raises UserError if the voice has several speakers, and `speaker` is none of them.
        """
        config, lengths = self.config["tacotron2"], np.array([len(ids)])
        text = np.array([ids], dtype=np.int64)
        number = speaker_id(speaker, config.get("speakers", []))  # exports of earlier versions have no such key
        who = {} if number is None else {"speaker": np.array([number])}
        memory, keys = self.encoder.run(None, {"text": text, "text_lengths": lengths} | who)
        sizes = config | {"length": len(ids)}
        state = {name: np.zeros((1, sizes[size]), np.float32) for name, size in self.config["state"].items()}
        frames = np.zeros((1, config["n_mel_channels"] * config["n_frames_per_step"]), np.float32)
        # Exports of earlier versions have no such key, and always have dropout.
        keep = 1 - config["prenet_dropout"] if config.get("dropout_in_synthesis", True) else 1.0
        steps, truncated = [], True
        for _ in range(max_steps or config["max_decoder_steps"]):
            masks = (rng.random((2, 1, config["prenet_dim"])) < keep).astype(np.float32) / np.float32(keep)
            inputs = {"frames": frames, "prenet_masks": masks, "memory": memory, "keys": keys, "text_lengths": lengths}
            frames, gate, *following = self.decoder_step.run(None, inputs | state)
            state = dict(zip(state, following, strict=True))
            steps.append(frames)
            if 1 / (1 + np.exp(-gate[0])) > config["gate_threshold"]:
                truncated = False
                break
        # (S, 1, n_mels * r) -> (1, n_mels, S * r)
        mel = np.stack(steps).reshape(1, -1, config["n_mel_channels"]).transpose(0, 2, 1)
        mel = self.postnet.run(None, {"mel": mel, "mel_lengths": np.array([mel.shape[2]])})[0]
        self._require_finite("mel", mel)
        return mel[0], truncated

    def audio(self, mel: np.ndarray, rng: np.random.Generator, options: SpeechOptions) -> np.ndarray:
        """mel (n_mels, T) -> samples (T * hop_length)"""
        config = self.config["waveglow"]
        sigma = config["sigma"] if options.sigma is None else options.sigma
        passes = config["match_mel"] if options.match_mel is None else options.match_mel
        shape = 1, config["n_group"], mel.shape[1] * config["hop_length"] // config["n_group"]
        z = np.float32(sigma) * rng.standard_normal(shape, dtype=np.float32)
        audio: np.ndarray = self.waveglow.run(None, {"mel": mel[np.newaxis], "z": z})[0][0]
        if options.denoiser_strength:
            audio = self.corrections.denoise(audio, options.denoiser_strength)
        audio = self.corrections.match_mel(mel, audio, passes)
        self._require_finite("audio", audio)
        return audio

    def _require_finite(self, name: str, made: np.ndarray) -> None:
        if not np.isfinite(made).all():
            raise UserError(
                f"{self.directory} gives NaN or infinity in its {name}; use options closer to their defaults, or "
                "export another checkpoint"
            )

    def speak(self, text: str, **options: Any) -> Speech:
        """Synthesize one text in pieces, see `Splitter`; `options` are the fields of SpeechOptions."""
        chosen = SpeechOptions(**options)
        rng, reads = np.random.default_rng(chosen.seed), [read for read in self.reader.read(text) if read.ids]
        hop_length = self.config["audio"]["hop_length"]
        parts, truncated = [np.zeros(0, np.float32)], False
        for place, read in enumerate(reads, 1):
            with about(repr(text[:60])):
                mel, stopped = self.mel(read.ids, rng, chosen.max_steps, chosen.speaker)
                truncated |= stopped
                parts.append(self.audio(mel, rng, chosen))
            if place < len(reads):
                num_frames = round(chosen.pauses.after(read.piece.pause) * self.sample_rate / hop_length)
                parts.append(np.zeros(num_frames * hop_length, np.float32))
        return Speech(np.concatenate(parts), truncated, len(reads))
