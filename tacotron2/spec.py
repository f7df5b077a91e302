"""What checkpoints and commands need to know about Tacotron 2."""

from common.spec import ModelSpec
from tacotron2 import reference
from tacotron2.model import Tacotron2, Tacotron2Config
from tacotron2.speaker_weights import adapt_speakers
from tacotron2.text.alike import ALIKE

TACOTRON2 = ModelSpec(
    name="tacotron2",
    model_class=Tacotron2,
    config_class=Tacotron2Config,
    reference=reference,
    meanings=("mel_mean", "mel_std"),
    names=("speakers",),
    not_sizes=("n_mel_channels", "n_symbols", "max_decoder_steps"),
    symbol_weights=("embedding.weight",),
    adapt=adapt_speakers,
    alike_symbols=ALIKE,
    renamed_weights={"sharpening.": "postfilter."},
)
