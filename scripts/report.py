"""Write a report of a training run: curves, alignments by training step, mels, audio, evaluation tables, the config.

    python scripts/report.py RUN_DIR [--evaluation DIR ...] [--output FILE]

The report is a single HTML file, by default RUN_DIR/report.html, which can be mailed and viewed offline. `--evaluation`
names output folders of scripts/evaluate.py, by default all folders in RUN_DIR that hold an evaluation.json.
"""

from __future__ import annotations

import checkout  # noqa: F401

import argparse
from pathlib import Path

from common.entry import run_command
from common.files import write_text
from evaluation.page import page


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="run directory of train.py")
    parser.add_argument(
        "--evaluation", type=Path, nargs="+", metavar="DIR", help="outputs of evaluate.py; default: in RUN_DIR"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="file to write; default: RUN_DIR/report.html")
    return parser


def main() -> None:
    args = parser().parse_args()
    output = args.output or args.run_dir / "report.html"
    evaluations = args.evaluation or sorted(path.parent for path in args.run_dir.glob("*/evaluation.json"))
    write_text(output, page(args.run_dir, evaluations))
    print(f"{output}, {output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_command(main)
