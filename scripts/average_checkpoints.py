"""Average the weights of several checkpoints of one run into one, which often speaks better than each of them.

    python scripts/average_checkpoints.py OUT IN [IN ...]

An IN that is a run directory stands for all the step checkpoints it holds (trainer.keep_last says how many). OUT holds
the description and the averaged weights: it speaks, converts and is started from, but training does not resume from it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.checkpoint import files as checkpoints
from common.checkpoint import formats as interchange
from common.entry import fail
from common.errors import UserError, check_new_file
from train import TASKS


def average(paths: list[Path]) -> dict[str, Any]:
    """A checkpoint with the mean of all weights; counters, which have no mean, are the last one's."""
    total: dict[str, Any] = {}
    first: dict[str, Any] = {}
    for path in paths:
        checkpoint = interchange.load(path, TASKS.values())
        first = first or {key: checkpoint[key] for key in interchange.DESCRIPTION}
        for key in interchange.DESCRIPTION:
            if checkpoint[key] != first[key]:
                raise UserError(f"{path} and {paths[0]} differ in their {key}; average checkpoints of one run")
        for key, weight in checkpoint["state_dict"].items():
            total[key] = total.get(key, 0.0) + weight.double() / len(paths) if weight.is_floating_point() else weight
    return {**first, "state_dict": {key: w.float() if w.is_floating_point() else w for key, w in total.items()}}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", metavar="OUT", type=Path, help="file to write; it must not exist")
    parser.add_argument("sources", metavar="IN", type=Path, nargs="+", help="checkpoints, or run directories")
    return parser


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    check_new_file(options.target, "OUT")
    paths: list[Path] = []
    for source in options.sources:
        steps = checkpoints.all_steps(source / "checkpoints") or checkpoints.all_steps(source)
        paths += steps or [checkpoints.find(source)]
    checkpoints.save(options.target, average(paths))
    print(f"{options.target}: the average of {', '.join(path.name for path in paths)}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        fail(str(error))
