"""The Tacotron 2 models of other projects, if installed, with the interface of ours, for scripts/benchmark.py."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tacotron2.model import Tacotron2Output
from tacotron2.text import SYMBOLS


class Torchaudio(nn.Module):
    """pip install torchaudio, in a version that fits the installed torch"""

    def __init__(self, frames: int) -> None:
        super().__init__()
        from torchaudio.models import Tacotron2

        self.model = Tacotron2(n_symbol=len(SYMBOLS), decoder_max_step=frames, gate_threshold=2.0)

    def forward(self, text: Tensor, text_lengths: Tensor, mel: Tensor, mel_lengths: Tensor) -> Tacotron2Output:
        return Tacotron2Output(*self.model(text, text_lengths, mel, mel_lengths))

    def infer(self, text: Tensor, text_lengths: Tensor, max_decoder_steps: int) -> Any:
        return self.model.infer(text, text_lengths)


class SpeechBrain(nn.Module):
    """pip install speechbrain"""

    def __init__(self, frames: int) -> None:
        super().__init__()
        from speechbrain.lobes.models.Tacotron2 import Tacotron2

        self.model = Tacotron2(n_symbols=len(SYMBOLS), max_decoder_steps=frames, gate_threshold=2.0)

    def forward(self, text: Tensor, text_lengths: Tensor, mel: Tensor, mel_lengths: Tensor) -> Tacotron2Output:
        inputs = text, text_lengths, mel, text.shape[1], mel_lengths
        return Tacotron2Output(*self.model(inputs)[:4])

    def infer(self, text: Tensor, text_lengths: Tensor, max_decoder_steps: int) -> Any:
        return self.model.infer(text, text_lengths)


PEERS: dict[str, type[nn.Module]] = {"torchaudio": Torchaudio, "speechbrain": SpeechBrain}


def installed() -> list[str]:
    """The names of the PEERS that can be imported and built."""
    found = []
    for name, peer in PEERS.items():
        try:
            peer(1)
        except Exception:  # with an incompatible torch they fail in many ways
            continue
        found.append(name)
    return found
