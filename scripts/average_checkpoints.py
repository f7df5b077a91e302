"""Average the weights of checkpoints: of one run, which often gives better results than any one of them, or of a model
and the one that was trained from it.

    python scripts/average_checkpoints.py OUT IN [IN ...]
    python scripts/average_checkpoints.py OUT BASE RUN --shares 0.2 0.8

If an IN is a run directory, all its step checkpoints are used (trainer.keep_last sets their number); with --shares, the
newest. OUT holds the averaged weights and the last IN's description of the model. Use it for synthesis, conversion and
init_from; it cannot resume training.

A voice that was trained with init_from=BASE from minutes of speech is often clearer with some of BASE's weights, and a
little less like its speaker: docs/voices.md.
"""

from __future__ import annotations

import checkout  # noqa: F401

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from common.checkpoint import files, formats
from common.checkpoint.checkpoint import Checkpoint
from common.entry import run_command
from common.errors import UserError
from synthesis.models import MODELS


def average(
    paths: list[Path], shares: Sequence[float], description: Callable[[Checkpoint], dict[str, Any]]
) -> Checkpoint:
    """A checkpoint with the weighted mean of the weights of all `paths`, which must have the same `description`.

    Integer counters are those of the last one.
    """
    total: dict[str, Tensor] = {}
    first: dict[str, Any] = {}
    for path, share in zip(paths, shares, strict=True):
        checkpoint = formats.load(path, MODELS.values())
        first = first or description(checkpoint)
        if different := [key for key, value in description(checkpoint).items() if value != first[key]]:
            raise UserError(
                f"{path} and {paths[0]} differ in their {' and '.join(different)}; average checkpoints of one run, or, "
                "with --shares, of a model and one that was trained from it"
            )
        for name, weight in checkpoint.state_dict.items():
            is_float = weight.is_floating_point()
            total[name] = total.get(name, 0.0) + share * weight.double() if is_float else weight
    mean = {name: weight.float() if weight.is_floating_point() else weight for name, weight in total.items()}
    return Checkpoint(checkpoint.model_name, checkpoint.model_config, checkpoint.audio, checkpoint.text, mean)


def meaning(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a model and the one that was trained from it have in common, else their mean makes no sense."""
    spec = MODELS[checkpoint.model_name]
    return {
        "model": checkpoint.model_name,
        "audio config": checkpoint.audio,
        "symbols": checkpoint.text and checkpoint.text.symbols,
        "settings": {key: checkpoint.model_config.get(key) for key in (*spec.meanings, *spec.names)},
        "sizes": {name: weight.shape for name, weight in checkpoint.state_dict.items()},
    }


def chosen(sources: list[Path], shares: list[float] | None) -> tuple[list[Path], list[float]]:
    """The checkpoints to average, and the share of each."""
    if shares is None:
        paths: list[Path] = []
        for source in sources:
            steps = files.all_steps(source / "checkpoints") or files.all_steps(source)
            paths += steps or [files.find(source)]
        return paths, [1 / len(paths)] * len(paths)
    given = f"--shares {' '.join(f'{share:g}' for share in shares)}"
    if len(shares) != len(sources):
        raise UserError(f"{given}: give one number for each IN, of which there are {len(sources)}")
    if min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise UserError(f"{given}: their sum is {sum(shares):g}; give numbers from 0 on whose sum is 1")
    return [files.find(source) for source in sources], shares


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", metavar="OUT", type=Path, help="file to write; it must not exist")
    parser.add_argument("sources", metavar="IN", type=Path, nargs="+", help="checkpoints, or run directories")
    parser.add_argument(
        "--shares", metavar="SHARE", type=float, nargs="+", help="the part of each IN in the mean; their sum is 1"
    )
    return parser


def main() -> None:
    options = parser().parse_args()
    files.check_new_file_outside_runs(options.target)
    paths, shares = chosen(options.sources, options.shares)
    description = Checkpoint.description if options.shares is None else meaning
    files.save(options.target, average(paths, shares, description))
    parts = [
        str(path) if options.shares is None else f"{share:g} of {path}"
        for path, share in zip(paths, shares, strict=True)
    ]
    print(f"{options.target}: the average of {', '.join(parts)}")


if __name__ == "__main__":
    run_command(main)
