"""Judges the audio of a validation during training, by the same judges and protocols as scripts/evaluate.py."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import soundfile
import torch
from torch import Tensor

from common.audio import load_audio, wav_bytes
from common.config import AudioConfig, TrainConfig
from common.data.filelist import AUDIO_SUFFIXES, Clip
from common.errors import UserError, about
from common.training.task import Speech, Verdict
from evaluation.judges import Listener, Naturalness, SpeakerEncoder, errors, normalized, optional, with_half_a_second
from synthesis.vocoder import Vocoder
from tacotron2.text.cleaners import ENGLISH_CLEANERS

RECORDINGS = 16  # clips of the validation set that stand for the voice


def criterion(wer: float | None, mos: float) -> float:
    """What the best validation has least of: words not understood, as a fraction of all, and lack of naturalness.

    Both are within 0 and 1. Wrong words count only up to the number of all: babble may have more. None: unknown.
    """
    return min(wer or 0.0, 1.0) + (5 - mos) / 4


class ValidationJudge:
    """Word error rate, naturalness, and similarity to the voice of `clips`, the validation set.

    Raises a UserError if a package of the extra [eval] is missing or the texts are not English. The global random state
    stays as it is.
    """

    def __init__(self, config: TrainConfig, clips: Sequence[Clip]) -> None:
        self.audio = config.audio
        if config.data.cleaners not in ENGLISH_CLEANERS:
            raise UserError(
                f"trainer.judge=true: Whisper tiny.en hears only English, and data.cleaners={config.data.cleaners} is "
                "for any language; leave trainer.judge out"
            )
        with about("trainer.judge=true"), torch.random.fork_rng(devices=[]):  # random weights, before they are loaded
            for module in ("jiwer", "whisper_normalizer.english"):
                optional(module)
            self.listener, self.naturalness, self.encoder = Listener(), Naturalness(), SpeakerEncoder()
        spoken = ((index, clip) for index, clip in enumerate(clips) if clip.suffix in AUDIO_SUFFIXES)
        self.voice = {  # clip -> embedding (256); empty if the filelist names mels
            index: self._embedding(load_audio(clip.file, self.audio, config.data.convert_audio))
            for index, clip in itertools.islice(spoken, RECORDINGS)
        }

    def __call__(self, speech: Sequence[Speech]) -> Verdict:
        """`speech` must not be empty. "wer" is a fraction; it is left out if no text has a word to compare."""
        words = words_wrong = 0
        scores, similarities = [], []
        for one in speech:
            audio, rate = self._as_file(one.audio), self.audio.sample_rate
            scores.append(self.naturalness(audio, rate))
            if _has_words(one.text):
                found = errors(one.text, self.listener(audio, rate))
                words, words_wrong = words + found.words, words_wrong + found.words_wrong
            others = [embedding for clip, embedding in self.voice.items() if clip != one.clip]
            if others:
                similarities.append(float(np.mean(others, axis=0) @ self._embedding(audio)))
        measures = {"wer": words_wrong / words} if words else {}
        measures["mos"] = float(np.mean(scores))
        if similarities:
            measures["speaker"] = float(np.mean(similarities))
        return Verdict(criterion(measures.get("wer"), measures["mos"]), measures)

    def _as_file(self, audio: Tensor) -> np.ndarray:
        """The samples of the 16-bit wav that the report writes."""
        samples, rate = soundfile.read(io.BytesIO(wav_bytes(audio, self.audio.sample_rate)), dtype="float32")
        return with_half_a_second(samples, rate)

    def _embedding(self, audio: np.ndarray) -> np.ndarray:
        return self.encoder(audio, self.audio.sample_rate)


def _has_words(text: str) -> bool:
    try:
        normalized(text)
    except UserError:  # empty, or ARPAbet
        return False
    return True


def waveglow_vocoder(path: str, audio: AudioConfig, device: torch.device, seed: int) -> Callable[[Tensor], Tensor]:
    """mel (n_mels, T) -> audio (N) on the CPU, with the WaveGlow at `path` as inference.py uses it by default."""
    with about("task.judge_waveglow"):
        vocoder = Vocoder.load(path, audio, device)

    def vocode(mel: Tensor) -> Tensor:
        return vocoder(mel.float(), torch.Generator(device).manual_seed(seed))[0]

    return vocode
