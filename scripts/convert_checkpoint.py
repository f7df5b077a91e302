"""Convert a checkpoint, of this project or of the reference, to another layout.

    python scripts/convert_checkpoint.py IN OUT
    python scripts/convert_checkpoint.py runs/waveglow OUT.safetensors
    python scripts/convert_checkpoint.py IN OUT --audio fmax=7600 --symbols symbols.json

OUT.safetensors is written as safetensors, with the config as metadata. Otherwise a checkpoint of the reference (NVIDIA
DeepLearningExamples', NVIDIA/tacotron2's or NVIDIA/waveglow's) becomes ours, and ours becomes DeepLearningExamples';
--to says it explicitly. Weights stay bit for bit what they are, unless --half rounds those of a safetensors file to
16 bits, which halves it. IN may be a run directory: its newest checkpoint.

The reference's files hold no audio config and no symbols. Its own values are assumed; --audio and --symbols set others.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from torch import Tensor

from common.checkpoint import files as checkpoints
from common.checkpoint import formats as interchange
from common.config import AudioConfig, from_dict
from common.entry import fail
from common.errors import UserError, check_new_file
from tacotron2.text import CLEANERS
from train import TASKS

LAYOUTS = ("ours", "dle", "safetensors")


def default_layout(source: Path, target: Path) -> str:
    if target.suffix == interchange.SAFETENSORS:
        return "safetensors"
    return "dle" if checkpoints.is_ours(source) else "ours"


def with_audio(checkpoint: dict[str, Any], settings: list[str]) -> None:
    """Replace fields of the audio config: KEY=VALUE."""
    audio = checkpoint["audio_config"]
    for setting in settings:
        key, _, value = setting.partition("=")
        try:
            audio[key.removeprefix("audio.")] = json.loads(value)
        except ValueError as error:
            raise UserError(f"--audio {setting}: need KEY=NUMBER, for example fmax=7600") from error
    from_dict(AudioConfig, audio, "audio")


def with_text(checkpoint: dict[str, Any], symbols: Path | None, cleaners: str | None) -> None:
    """Replace the symbol table and the cleaners."""
    text = checkpoint["text"]
    if text is None:
        raise UserError(f"--symbols and --cleaners are for a Tacotron 2, not for a {checkpoint['model_name']}")
    if cleaners is not None:
        text["cleaners"] = cleaners
    if symbols is None:
        return
    try:
        table = json.loads(symbols.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--symbols {symbols}: cannot be read ({error}); it is a JSON list of strings") from error
    expected = checkpoint["model_config"]["n_symbols"]
    if not isinstance(table, list) or not all(isinstance(symbol, str) and symbol for symbol in table):
        raise UserError(f"--symbols {symbols}: not a JSON list of strings, one for each id")
    if len(table) != expected or len(set(table)) != expected:
        raise UserError(f"--symbols {symbols}: {len(set(table))} different symbols; the model has {expected}")
    text["symbols"] = table


def halved(weights: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    if layout != "safetensors":
        raise UserError(f"--half is for safetensors, not for layout {layout}; name OUT.safetensors")
    rounded = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    if large := [key for key, value in rounded.items() if not value.isfinite().all()]:
        raise UserError(f"--half: {large[0]} holds numbers that float16 cannot; leave --half out")
    return rounded


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="IN", type=Path, help="checkpoint of any layout, or a run directory")
    parser.add_argument("target", metavar="OUT", type=Path, help="file to write; it must not exist")
    parser.add_argument("--to", choices=LAYOUTS, help="layout of OUT, if it is not to be guessed")
    parser.add_argument("--half", action="store_true", help="store the weights of OUT.safetensors as float16")
    parser.add_argument("--audio", nargs="+", default=[], metavar="KEY=VALUE", help="what IN was trained with")
    parser.add_argument("--symbols", type=Path, metavar="FILE", help="JSON list of IN's symbols by id")
    parser.add_argument("--cleaners", choices=sorted(CLEANERS), help="the cleaners IN was trained with")
    return parser


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    check_new_file(options.target, "OUT")
    source = checkpoints.find(options.source)
    checkpoint = interchange.load(source, TASKS.values())
    with_audio(checkpoint, options.audio)
    if options.symbols or options.cleaners:
        with_text(checkpoint, options.symbols, options.cleaners)
    model = interchange.build(checkpoint, source, TASKS.values())
    checkpoint["state_dict"] = model.state_dict()  # in the model's order, which safetensors does not keep
    layout = options.to or default_layout(source, options.target)
    if options.half:
        checkpoint["state_dict"] = halved(checkpoint["state_dict"], layout)
    if layout == "safetensors":
        interchange.save_safetensors(checkpoint, options.target)
    elif layout == "dle":
        interchange.save_reference(checkpoint, options.target, TASKS[checkpoint["model_name"]])
        for loss in interchange.lost_in_reference(checkpoint, TASKS[checkpoint["model_name"]]):
            print(f"warning: that layout has no place for {loss}")
    else:
        checkpoints.save(options.target, checkpoint)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{options.target}: {checkpoint['model_name']}, {parameters:,} parameters, layout {layout}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        fail(str(error))
