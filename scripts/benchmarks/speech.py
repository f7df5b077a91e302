"""Measures text to audio, with every optimization that it has; called by scripts/benchmark.py."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from common.config import AudioConfig
from common.device import now
from common.ops.packed import forget_packed
from synthesis.options import SpeechOptions
from synthesis.reader import Reader
from synthesis.synthesizer import Synthesizer
from synthesis.vocoder import Vocoder
from tacotron2.model import Tacotron2, Tacotron2Config
from tacotron2.text import SYMBOLS
from waveglow.model import WaveGlow, WaveGlowConfig

from benchmarks.measuring import WARM_UP, measured, seconds_of

WORDS = "the quick brown fox jumps over a lazy dog and so on "


def measure_synthesis(case: dict[str, Any]) -> dict[str, Any]:
    """Measure text to audio with the voice `voice`; without one, with full-size models that have learned nothing, and
    a Tacotron 2 that outputs `frames` frames, by default 6 for each character, and does not stop by itself.

    Implementations: "ours"; "plain", with the step-by-step decoder and WaveGlow's convolutions as in training, where
    each call applies weight norm; "compiled", which is plain with torch.compile for the convolutional parts;
    "offloaded", which is ours with the weights of one model on disk while the other computes. The first audio is that
    of a stream for one text with "ours", and otherwise that of the first text of the batch.
    """
    torch.manual_seed(0)
    implementation, batch, device = case["implementation"], case["batch"], torch.device(case["device"])
    voice = _trained(case) if case.get("voice") else _untrained(case)
    steps = None if case.get("voice") else case.get("frames", 6 * case["characters"])
    tacotron2, waveglow = voice.tacotron2, voice.vocoder.waveglow
    assert waveglow is not None
    if implementation in ("plain", "compiled"):
        tacotron2.decoder.fused = waveglow.packed = False
    if implementation == "compiled":
        for module in (*tacotron2.encoder.convolutions, *tacotron2.postnet.convolutions, *waveglow.WN):
            module.compile(dynamic=True)
    text = (WORDS * (1 + case["characters"] // len(WORDS)))[: case["characters"] - 1] + "."
    options: dict[str, Any] = {"attempts": 1, "max_decoder_steps": steps}
    first, lengths = list[float](), list[int]()

    def run() -> None:
        lengths.clear()
        start = now(device)
        for part in voice.parts([text] * batch, batch, SpeechOptions(**options)):
            assert part.utterance
            if not lengths:
                first.append(now(device) - start)
            lengths.append(part.utterance.mel.shape[1])

    with tempfile.TemporaryDirectory() as directory:
        if implementation == "offloaded":
            offload(tacotron2, Path(directory) / "tacotron2.pt")
            offload(waveglow, Path(directory) / "waveglow.pt")
        result = measured(run, case)
    first = first[WARM_UP[case["device"]] :]
    if batch == 1 and implementation == "ours":
        first = seconds_of(lambda: next(voice.stream(text, **options)), case["runs"], case["device"])
    frames = sum(lengths)
    return result | {"mels": frames, "items": frames * voice.audio.hop_length, "first_audio": statistics.mean(first)}


def _trained(case: dict[str, Any]) -> Synthesizer:
    voice = Synthesizer.load(case["voice"], device=case["device"], precision=case["precision"])
    voice.reader.limit = max(voice.reader.limit, case["characters"])  # the text is one piece
    return voice


def _untrained(case: dict[str, Any]) -> Synthesizer:
    tacotron2 = Tacotron2(Tacotron2Config(gate_threshold=2.0)).to(case["device"]).eval()
    waveglow = WaveGlow(WaveGlowConfig(n_channels=case.get("channels", 256))).to(case["device"]).eval()
    reader = Reader("english_cleaners", SYMBOLS, limit=case["characters"])  # the text is one piece
    voice = Synthesizer(tacotron2, Vocoder(waveglow, AudioConfig(), case["precision"]), reader, case["precision"])
    voice.text_to_mel.patience = None  # its attention reads nothing
    return voice


def offload(model: Any, path: Path) -> None:
    """Move the weights to a file. Each call of `infer` loads them and then frees them again."""
    torch.save(model.state_dict(), path)
    device, infer = next(model.parameters()).device, model.infer

    def infer_with_weights(*arguments: Any, **options: Any) -> Any:
        model.load_state_dict(torch.load(path, map_location=device, mmap=True), assign=True)
        result = infer(*arguments, **options)
        forget_packed(model)
        model.to("meta")
        return result

    model.to("meta")
    model.infer = infer_with_weights
