"""Provides `from inference import Synthesizer` in an environment where this project is installed."""

from tacotron2_waveglow.synthesis.models import load_model
from tacotron2_waveglow.synthesis.options import SpeechOptions
from tacotron2_waveglow.synthesis.synthesizer import Synthesizer
from tacotron2_waveglow.synthesis.utterance import Utterance

__all__ = ["SpeechOptions", "Synthesizer", "Utterance", "load_model"]
