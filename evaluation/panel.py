"""The panel: all judges and measures, applied to one utterance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import librosa
import numpy as np

from common.config import AudioConfig
from evaluation.acoustics import Analysis, analyze, copy_quality, distance
from evaluation.judges import Cleanness, Listener, Naturalness, SpeakerEncoder, errors, with_half_a_second
from evaluation.table import Utterance


class Panel:
    """`listen` to every utterance first, then `compare` each with the recordings."""

    def __init__(self, config: AudioConfig) -> None:
        self.sample_rate, self.fmax = config.sample_rate, config.fmax
        self.listener, self.naturalness, self.cleanness = Listener(), Naturalness(), Cleanness()
        self.encoder = SpeakerEncoder()
        self.analyses: dict[int, Analysis] = {}

    def listen(self, utterance: Utterance) -> None:
        """Add the measures that need only the utterance."""
        utterance.audio = utterance.audio.clip(-1, 1)  # as it would sound
        clip = with_half_a_second(utterance.audio, self.sample_rate), self.sample_rate
        found = utterance.found
        found["heard"], found["mos"] = self.listener(*clip), self.naturalness(*clip)
        found.update(self.cleanness(*clip))
        found["embedding"] = self.encoder(*clip)
        found["audio_seconds"] = len(utterance.audio) / self.sample_rate
        if utterance.text is not None:
            found.update(errors(utterance.text, found["heard"])._asdict())
            trimmed, _ = librosa.effects.trim(utterance.audio, top_db=40)
            found["text_characters"] = len(utterance.text)
            found["speech_seconds"] = max(len(trimmed), 1) / self.sample_rate

    def compare(self, utterance: Utterance, recordings: Sequence[Utterance], aligned: bool) -> None:
        """Add the measures that need the recordings; `aligned`: the utterance is a copy, aligned in time."""
        others = [r.found["embedding"] for i, r in enumerate(recordings) if r is not utterance and i != utterance.clip]
        if others:
            utterance.found["speaker"] = float(np.mean(others, axis=0) @ utterance.found["embedding"])
        if utterance.clip is None:
            return
        clip = recordings[utterance.clip]
        if utterance.clip not in self.analyses:
            self.analyses[utterance.clip] = analyze(clip.audio, self.sample_rate, self.fmax)
        found = distance(self.analyses[utterance.clip], analyze(utterance.audio, self.sample_rate, self.fmax))
        utterance.found.update(mcd=found.mcd, voicing_error=100 * found.voicing_error)
        if not math.isnan(found.pitch_error):
            utterance.found["pitch_error"] = found.pitch_error
        if aligned:
            utterance.found.update(copy_quality(clip.audio, utterance.audio, self.sample_rate))
