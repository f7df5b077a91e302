"""Export both models as ONNX graphs and compare them with PyTorch. scripts/speak_onnx.py synthesizes with the graphs.

    python scripts/export_onnx.py tacotron2=CKPT waveglow=CKPT output=DIR

DIR is all that another machine needs, which does not need PyTorch: synthesis/onnx/files.py lists what is in it, and
synthesis/onnx/graphs.py documents the inputs and outputs of the graphs.
"""

from __future__ import annotations

import checkout  # noqa: F401

if __name__ == "__main__":  # before the slow imports
    from common.help import show_help

    show_help("export_onnx", __doc__)

import contextlib
import dataclasses
import json
import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.entry import hydra_entry
from common.errors import UserError, require_packages
from common.files import new_directory, write_text
from common.schema import Options, from_dict
from synthesis.models import RUINED, not_finite
from synthesis.onnx.files import CONFIG_FILE, FILTERS_FILE, GRAPHS, copy_code
from synthesis.onnx.graphs import STATE, TOLERANCE, example_inputs, export, graphs, largest_difference
from synthesis.synthesizer import Synthesizer
from synthesis.vocoder import Vocoder
from tacotron2.model import Tacotron2
from waveglow.model import WaveGlow


@dataclass
class ExportConfig(Options):
    """The keys of conf/export_onnx.yaml, which explains them."""

    tacotron2: str
    waveglow: str
    output: str


@hydra_entry("export_onnx")
def main(values: dict[str, Any]) -> None:
    config = from_dict(ExportConfig, values)
    require_packages(("onnx", "onnxscript", "onnxruntime"), "pip install -e '.[onnx]' in the repository")
    output, start = Path(config.output), time.perf_counter()
    with new_directory(output, "output") as part:
        voice = Synthesizer.load(config.tacotron2, config.waveglow, device="cpu")
        waveglow = voice.vocoder.waveglow
        assert waveglow is not None
        for model, source in ((voice.tacotron2, voice.source), (waveglow, voice.vocoder.source)):
            if weight := not_finite(model):
                raise UserError(f"{source}: {RUINED.format(weight)}")
        export_graphs(part, voice.tacotron2, waveglow)
        write_filters(part / FILTERS_FILE, voice.vocoder)
        copy_code(part)
        description = {
            "tacotron2": dataclasses.asdict(voice.tacotron2.config) | {"memory_dim": voice.tacotron2.config.memory_dim},
            "waveglow": dataclasses.asdict(waveglow.config),
            "audio": dataclasses.asdict(voice.audio),
            "text": {
                "symbols": list(voice.symbols),
                "cleaners": voice.cleaners,
                "limit": voice.reader.limit,
                "language": voice.reader.language,
            },
            "state": STATE,
        }
        write_text(part / CONFIG_FILE, json.dumps(description, indent=2) + "\n")
    print(
        f"exported in {time.perf_counter() - start:.1f} s; to synthesize, here or on another machine:\n"
        f"    pip install -r {output}/requirements-onnx-runtime.txt\n"
        f"    python {output}/scripts/speak_onnx.py {output} phrases.txt speech_onnx"
    )


def export_graphs(output: Path, tacotron2: Tacotron2, waveglow: WaveGlow) -> None:
    """Write the graphs, and compare each with PyTorch for inputs of another size than those that it was traced with."""
    traced = example_inputs(tacotron2, waveglow, batch=2, length=11, num_frames=13)
    other = example_inputs(tacotron2, waveglow, batch=3, length=7, num_frames=9)
    for number, (name, graph) in enumerate(graphs(tacotron2, waveglow).items(), 1):
        path, start = output / f"{name}.onnx", time.perf_counter()
        print(f"{number} of {len(GRAPHS)}: {path.name} ...", end=" ", flush=True)
        with quiet_exporter():
            export(path, graph, traced[name], waveglow)
        difference = largest_difference(path, graph, other[name])
        size = f"{path.stat().st_size / 1e6:,.1f} MB in {time.perf_counter() - start:.1f} s"
        print(f"{size}, differs from PyTorch by at most {difference:.1e}", flush=True)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{path.name} would differ from PyTorch by {difference:.1e}, more than {TOLERANCE}; export another "
                "checkpoint"
            )


def write_filters(path: Path, vocoder: Vocoder) -> None:
    """Write the constants of the denoiser and the mel match, see synthesis/onnx/corrections.py."""
    assert vocoder.denoiser is not None
    np.savez(
        path,
        hum=vocoder.denoiser.bias[0, :, 0].numpy(),
        filterbank=vocoder.mel_match.log_mel.filterbank.numpy(),
    )


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Hide what PyTorch's exporter says about its own code; our graphs cannot change it."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")  # torchvision is not installed
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        # Inputs share dimensions by design.
        warnings.filterwarnings("ignore", "# The axis name: .* will not be used, since it shares", UserWarning)
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


if __name__ == "__main__":
    main()
