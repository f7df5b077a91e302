"""Convert a checkpoint of this project or of the reference to another layout.

    python scripts/convert_checkpoint.py IN OUT
    python scripts/convert_checkpoint.py runs/waveglow OUT.safetensors
    python scripts/convert_checkpoint.py IN OUT --audio fmax=7600 --symbols symbols.json

OUT.safetensors is written as safetensors, with the config as metadata. Otherwise a checkpoint of the reference (NVIDIA
DeepLearningExamples, NVIDIA/tacotron2 or NVIDIA/waveglow) is converted to our layout, and ours to that of
DeepLearningExamples. --to overrides this choice. Weights stay bit-identical, with two exceptions: a removed weight norm
is restored with rounding errors, and --half rounds the weights of a safetensors file to 16 bits, which halves its size.
If IN is a run directory, its newest checkpoint is converted.

--speaker NAME keeps one speaker of a Tacotron 2 with several, which then speaks the same.

The reference's files do not record audio config, symbols and cleaners. The reference's own values are assumed; --audio,
--symbols and --cleaners set others.
"""

from __future__ import annotations

import checkout  # noqa: F401

import argparse
import dataclasses
import json
from pathlib import Path

from torch import Tensor

from common.checkpoint import files, formats
from common.checkpoint.checkpoint import Checkpoint
from common.config import AudioConfig, TextConfig
from common.entry import run_command
from common.errors import UserError, about
from common.schema import from_dict
from common.wording import counted
from synthesis.models import MODELS
from tacotron2.speaker_weights import select
from tacotron2.text import CLEANERS, language_of

LAYOUTS = ("ours", "dle", "safetensors")


def default_layout(source: Path, target: Path) -> str:
    """The layout of OUT unless --to sets it, from OUT's suffix and the layout of IN."""
    if target.suffix == formats.SAFETENSORS:
        return "safetensors"
    return "dle" if files.is_ours(source) else "ours"


def with_settings(audio: AudioConfig, settings: list[str]) -> AudioConfig:
    """The audio config with the fields of the KEY=VALUE settings replaced."""
    values = dataclasses.asdict(audio)
    for setting in settings:
        key, _, value = setting.partition("=")
        try:
            values[key.removeprefix("audio.")] = json.loads(value)
        except ValueError as error:
            raise UserError(f"--audio {setting}: need KEY=NUMBER, for example fmax=7600") from error
    return from_dict(AudioConfig, values)


def with_text(checkpoint: Checkpoint, symbols: Path | None, cleaners: str | None) -> TextConfig:
    """The checkpoint's text config with another symbol table or other cleaners."""
    text = checkpoint.text
    if text is None:
        raise UserError(f"--symbols and --cleaners are for a Tacotron 2, not for a {checkpoint.model_name}")
    table = text.symbols if symbols is None else read_symbols(symbols, checkpoint.model_config["n_symbols"])
    # Other cleaners make texts of other lengths.
    if cleaners in (None, text.cleaners):
        return dataclasses.replace(text, symbols=table)
    assert cleaners is not None
    return TextConfig(table, cleaners, None, language_of(cleaners, text.language))


def with_speaker(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """The checkpoint with one of its speakers."""
    if checkpoint.text is None:
        raise UserError(f"--speaker is for a Tacotron 2, not for a {checkpoint.model_name}")
    with about("--speaker"):
        return select(checkpoint, name)


def read_symbols(path: Path, expected: int) -> tuple[str, ...]:
    """Read a JSON list of the model's symbols, `expected` in number."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--symbols {path}: cannot be read ({error}); it must be a JSON list of strings") from error
    if not isinstance(table, list) or not all(isinstance(symbol, str) and symbol for symbol in table):
        raise UserError(f"--symbols {path}: not a JSON list of strings, one for each id")
    if len(table) != expected or len(set(table)) != expected:
        raise UserError(
            f"--symbols {path}: {counted(len(table), 'symbol')}, {len(set(table))} of them different; the model "
            f"needs {expected} different ones, ordered by id"
        )
    return tuple(table)


def halved(weights: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    """The weights in float16; integers stay as they are."""
    if layout != "safetensors":
        raise UserError(f"--half is for safetensors, not for layout {layout}; use --to safetensors")
    rounded = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    if large := [key for key, value in rounded.items() if not value.isfinite().all()]:
        raise UserError(f"--half: {large[0]} holds numbers outside the range of float16; leave --half out")
    return rounded


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="IN", type=Path, help="checkpoint of any layout, or a run directory")
    parser.add_argument("target", metavar="OUT", type=Path, help="file to write; it must not exist")
    parser.add_argument("--to", choices=LAYOUTS, help="layout of OUT, instead of the default one")
    parser.add_argument("--half", action="store_true", help="store the weights of OUT.safetensors as float16")
    parser.add_argument("--speaker", metavar="NAME", help="the speaker to keep, of a Tacotron 2 with several")
    parser.add_argument("--audio", nargs="+", default=[], metavar="KEY=VALUE", help="audio config of IN's training")
    parser.add_argument("--symbols", type=Path, metavar="FILE", help="JSON list of IN's symbols, ordered by id")
    parser.add_argument("--cleaners", choices=sorted(CLEANERS), help="the cleaners that IN was trained with")
    return parser


def main() -> None:
    options = parser().parse_args()
    files.check_new_file_outside_runs(options.target)
    source = files.find(options.source)
    checkpoint = formats.load(source, MODELS.values())
    if options.speaker:
        checkpoint = with_speaker(checkpoint, options.speaker)
    checkpoint.audio = with_settings(checkpoint.audio, options.audio)
    if options.symbols or options.cleaners:
        checkpoint.text = with_text(checkpoint, options.symbols, options.cleaners)
    model, spec = formats.build(checkpoint, source, MODELS.values()), MODELS[checkpoint.model_name]
    checkpoint.state_dict = model.state_dict()  # in the model's order, which safetensors does not keep
    layout = options.to or default_layout(source, options.target)
    if options.half:
        checkpoint.state_dict = halved(checkpoint.state_dict, layout)
    if layout == "safetensors":
        formats.save_safetensors(checkpoint, options.target)
    elif layout == "dle":
        formats.save_reference(checkpoint, options.target, spec)
        for loss in formats.lost_in_reference(checkpoint, spec):
            print(f"warning: this layout has no place for {loss}")
    else:
        files.save(options.target, checkpoint)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{options.target}: {checkpoint.model_name}, {parameters:,} parameters, layout {layout}")


if __name__ == "__main__":
    run_command(main)
