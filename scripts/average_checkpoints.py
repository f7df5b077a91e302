"""Average the weights of several checkpoints of one run, which often gives better results than any one of them.

    python scripts/average_checkpoints.py OUT IN [IN ...]

If an IN is a run directory, all its step checkpoints are used (trainer.keep_last sets their number). OUT holds the
averaged weights and the description of the model. Use it for synthesis, conversion and init_from; it cannot resume
training.
"""

from __future__ import annotations

import checkout  # noqa: F401

import argparse
import dataclasses
from pathlib import Path

from torch import Tensor

from common.checkpoint import files, formats
from common.checkpoint.checkpoint import Checkpoint
from common.entry import run_command
from common.errors import UserError
from synthesis.models import MODELS


def average(paths: list[Path]) -> Checkpoint:
    """A checkpoint with the mean weights of all `paths`. Integer counters are those of the last one."""
    total: dict[str, Tensor] = {}
    first: Checkpoint | None = None
    for path in paths:
        checkpoint = formats.load(path, MODELS.values())
        first = first or checkpoint
        for key, value in checkpoint.description().items():
            if value != first.description()[key]:
                raise UserError(f"{path} and {paths[0]} differ in their {key}; average checkpoints of one run")
        for name, weight in checkpoint.state_dict.items():
            is_float = weight.is_floating_point()
            total[name] = total.get(name, 0.0) + weight.double() / len(paths) if is_float else weight
    assert first is not None
    mean = {name: weight.float() if weight.is_floating_point() else weight for name, weight in total.items()}
    return dataclasses.replace(first, state_dict=mean, average={}, optimizer=None, progress=None, rng=[], config={})


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", metavar="OUT", type=Path, help="file to write; it must not exist")
    parser.add_argument("sources", metavar="IN", type=Path, nargs="+", help="checkpoints, or run directories")
    return parser


def main() -> None:
    options = parser().parse_args()
    files.check_new_file_outside_runs(options.target)
    paths: list[Path] = []
    for source in options.sources:
        steps = files.all_steps(source / "checkpoints") or files.all_steps(source)
        paths += steps or [files.find(source)]
    files.save(options.target, average(paths))
    print(f"{options.target}: the average of {', '.join(path.name for path in paths)}")


if __name__ == "__main__":
    run_command(main)
