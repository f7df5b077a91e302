"""Write a Bark or AudioLDM 2 with random weights, to try or measure it without a network.

    PYTHONPATH=scripts python -m benchmarks.untrained bark-tiny DIR
    PYTHONPATH=scripts python -m benchmarks.untrained audioldm2 DIR

bark-small and audioldm2 have the sizes of suno/bark-small and cvssp/audioldm2: time and memory of a step do not depend
on the values of the weights. bark-tiny and audioldm2-tiny take a moment. All make noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common.entry import run_command
from common.errors import UserError
from synthesis.engines.options import missing

MODELS = ("bark-tiny", "bark-small", "audioldm2-tiny", "audioldm2")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("folder", type=Path, help="where to write it; made if it does not exist")
    return parser


def main() -> None:
    options = parser().parse_args()
    if options.folder.exists() and any(options.folder.iterdir()):
        raise UserError(f"{options.folder}: not empty; name another folder")
    try:
        from benchmarks import untrained_audioldm2, untrained_bark
    except ModuleNotFoundError as error:
        raise missing(error.name or "transformers") from error
    write = {
        "bark-tiny": untrained_bark.write_tiny,
        "bark-small": untrained_bark.write_small,
        "audioldm2-tiny": untrained_audioldm2.write_tiny,
        "audioldm2": untrained_audioldm2.write_base,
    }[options.model]
    write(options.folder)


if __name__ == "__main__":
    run_command(main)
