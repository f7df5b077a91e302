"""Export both models as ONNX graphs and compare them with PyTorch. scripts/speak_onnx.py synthesizes with the graphs.

    python scripts/export_onnx.py tacotron2=CKPT waveglow=CKPT output=DIR

Writes encoder.onnx, decoder_step.onnx, postnet.onnx, waveglow.onnx and config.json to DIR. config.json holds everything
else that a loop around the graphs needs: symbols, cleaners, sizes, the audio config. synthesis/onnx/graphs.py documents
the inputs and outputs of the graphs.
"""

from __future__ import annotations

import checkout  # noqa: F401

if __name__ == "__main__":  # before the slow imports
    from common.help import show_help

    show_help("export_onnx", __doc__)

import dataclasses
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.entry import hydra_entry
from common.errors import UserError
from common.files import make_directory, refuse_existing, write_text
from common.schema import Options, from_dict
from synthesis.onnx.graphs import (
    OUTPUTS,
    STATE,
    TOLERANCE,
    DecoderStepGraph,
    EncoderGraph,
    PostnetGraph,
    WaveGlowGraph,
    example_inputs,
    export,
    largest_difference,
)
from synthesis.synthesizer import Synthesizer


@dataclass
class ExportConfig(Options):
    """The keys of conf/export_onnx.yaml, which explains them."""

    tacotron2: str
    waveglow: str
    output: str


@hydra_entry("export_onnx")
def main(values: dict[str, Any]) -> None:
    config = from_dict(ExportConfig, values)
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; run in the repository: pip install -e '.[onnx]'") from error
    output = Path(config.output)
    names = [output / f"{name}.onnx" for name in OUTPUTS] + [output / "config.json"]
    refuse_existing(names, "choose another output=DIR, or remove it")
    warnings.simplefilter("ignore")  # PyTorch's exporter warns about its own code
    voice = Synthesizer.load(config.tacotron2, config.waveglow, device="cpu")
    tacotron2, waveglow = voice.tacotron2, voice.vocoder.waveglow
    assert waveglow is not None
    make_directory(output, "output")
    graphs = {
        "encoder": EncoderGraph(tacotron2),
        "decoder_step": DecoderStepGraph(tacotron2),
        "postnet": PostnetGraph(tacotron2),
        "waveglow": WaveGlowGraph(waveglow),
    }
    traced = example_inputs(tacotron2, waveglow, batch=2, length=11, num_frames=13)
    other = example_inputs(tacotron2, waveglow, batch=3, length=7, num_frames=9)
    for name, graph in graphs.items():
        path = output / f"{name}.onnx"
        export(path, graph, traced[name], OUTPUTS[name], waveglow)
        difference = largest_difference(path, graph, other[name])
        size = f"{path.stat().st_size / 1e6:,.1f} MB"
        print(f"{path}: {size}, differs from PyTorch by at most {difference:.1e}", flush=True)
        if not difference <= TOLERANCE:
            raise UserError(f"{path}: differs from PyTorch by {difference:.1e}, more than {TOLERANCE}: do not use it")
    description = {
        "tacotron2": dataclasses.asdict(tacotron2.config),
        "waveglow": dataclasses.asdict(waveglow.config),
        "audio": dataclasses.asdict(voice.audio),
        "text": {"symbols": list(voice.symbols), "cleaners": voice.cleaners},
        "state": STATE,
    }
    write_text(output / "config.json", json.dumps(description, indent=2) + "\n")


if __name__ == "__main__":
    main()
