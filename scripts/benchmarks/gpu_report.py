"""Measure this project on one GPU, and write a table with the figures that others published beside its own.

Each part runs in its own process with its own time limit, the most valuable first. A part that fails says why, and the
others go on. The report is written again after each part.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import benchmark
import torch

from common.entry import run_command
from common.errors import UserError, did_you_mean
from common.files import make_directory, write_text

from benchmarks.cases import MEASURES
from benchmarks.process import run_json
from benchmarks.tables import markdown

MINUTES = 9.0
RESERVE = 20.0  # seconds of the limit for importing PyTorch, and for ending a part
LEAST = 10.0  # seconds; with less time left a part is not started


@dataclass(frozen=True)
class Part:
    """One measurement: a case of scripts/benchmark.py, of a kind in cases.py or gpu_parts.py."""

    name: str
    kind: str
    limit: float  # seconds
    options: dict[str, Any] = field(default_factory=dict)
    missing: str = ""  # why the part cannot run here


def gpu_parts() -> list[Part]:
    """The parts at full size, in the settings of the published figures where these are known."""
    tacotron2 = {"batch": 128, "characters": 100, "frames": 500, "runs": 5}
    waveglow = {"implementation": "ours", "channels": 512, "samples": 8000, "runs": 10}
    # 602 frames are the 7 seconds that the reference synthesizes from 128 characters.
    chain = {"implementation": "ours", "characters": 128, "frames": 602, "precision": "fp16", "runs": 10}
    tests = ["tests/test_triton.py", "-m", "slow or not slow", "-k", "not compile_for_a_gpu"]
    return [
        Part("machine", "machine", 60),
        Part("tests", "tests", 150, {"arguments": tests}),
        _training("tacotron2", "ours", "fp32", 60, tacotron2),
        Part("waveglow_fp16", "waveglow_training", 60, {**waveglow, "batch": 10, "precision": "fp16"}),
        Part("chain_1", "synthesis", 60, {**chain, "batch": 1}),
        Part("recipe_tacotron2", "recipe", 120, {"model": "tacotron2_small", "steps": 100}),
        Part("recipe_waveglow", "recipe", 90, {"model": "waveglow_small", "steps": 100}),
        Part("first_audio", "first_audio", 60, {"runs": 10}),
        _training("tacotron2_step_by_step", "step by step", "fp32", 60, {**tacotron2, "runs": 2}),
        Part("waveglow_fp32", "waveglow_training", 60, {**waveglow, "batch": 4, "precision": "fp32"}),
        Part("chain_8", "synthesis", 60, {**chain, "batch": 8, "runs": 5}),
        _training("tacotron2_fp16", "ours", "fp16", 60, tacotron2),
        Part("waveglow_bf16", "waveglow_training", 60, {**waveglow, "batch": 10, "precision": "bf16"}),
        Part("chain_1_fp32", "synthesis", 60, {**chain, "batch": 1, "precision": "fp32"}),
        _training("tacotron2_torchaudio", "torchaudio", "fp32", 60, {**tacotron2, "runs": 2}),
    ]


def cpu_parts() -> list[Part]:
    """The same kinds of parts at a size for a CPU."""
    tacotron2 = {"batch": 2, "characters": 9, "frames": 5, "runs": 1}
    waveglow = {"implementation": "ours", "channels": 8, "samples": 2048, "batch": 2, "runs": 1}
    chain = {"implementation": "ours", "characters": 5, "frames": 8, "precision": "fp32", "runs": 1}
    return [
        Part("machine", "machine", 60),
        Part("tests", "tests", 60, {"arguments": ["tests/test_triton.py::test_waveglow_gate"]}),
        _training("tacotron2", "ours", "fp32", 60, tacotron2),
        Part("waveglow_fp32", "waveglow_training", 60, {**waveglow, "precision": "fp32"}),
        Part("chain_1", "synthesis", 60, {**chain, "batch": 1}),
        Part("recipe_tacotron2", "recipe", 120, {"model": "tacotron2_small", "steps": 2}),
        Part("recipe_waveglow", "recipe", 60, {"model": "waveglow_small", "steps": 2}),
        Part("first_audio", "first_audio", 60, {"runs": 1}),
        _training("tacotron2_step_by_step", "step by step", "fp32", 60, tacotron2),
        Part("chain_8", "synthesis", 60, {**chain, "batch": 8}),
        Part("waveglow_bf16", "waveglow_training", 60, {**waveglow, "precision": "bf16"}),
        _training("tacotron2_torchaudio", "torchaudio", "fp32", 60, tacotron2),
    ]


def _training(name: str, implementation: str, precision: str, limit: float, sizes: dict[str, Any]) -> Part:
    options = {**sizes, "implementation": implementation, "precision": precision}
    is_missing = implementation == "torchaudio" and importlib.util.find_spec("torchaudio") is None
    cure = "torchaudio is not installed: python -m pip install torchaudio" if is_missing else ""
    return Part(name, "tacotron2_training", limit, options, cure)


def run_part(part: Part, output: Path, left: float, device: str, peaks: dict[str, Any]) -> dict[str, Any]:
    """Run one part with at most `left` seconds, and return its entry in the report."""
    case, log, start = {"kind": part.kind, "device": device, **part.options}, f"{part.name}.log", time.monotonic()
    entry = {"name": part.name, **case, "status": "not run", "seconds": 0.0}
    if part.missing:
        return {**entry, "error": part.missing}
    if left < LEAST:
        return {**entry, "error": "no time was left"}
    try:
        result = run_json(benchmark.command({**case, "started": start}), output / log, min(part.limit, left))
        values = benchmark.figures(case, result, peaks) if part.kind in MEASURES else result
        entry |= {"status": "done", "values": values}
    except UserError as error:
        entry |= {"status": "failed", "error": str(error), "log": log}
    return {**entry, "seconds": time.monotonic() - start}


def measure(parts: Iterable[Part], output: Path, minutes: float, device: str) -> dict[str, Any]:
    """Run the parts one after the other until the time is used up, and write the report after each."""
    start = time.monotonic()
    report: dict[str, Any] = {"size": device, "minutes": minutes, "parts": []}
    peaks: dict[str, Any] = {"gflops": {}}
    for part in parts:
        left = 60 * minutes - RESERVE - (time.monotonic() - start)
        entry = run_part(part, output, left, device, peaks)
        if part.kind == "machine" and entry["status"] == "done":
            peaks = {"gflops": entry["values"]["gflops"], "gigabytes": entry["values"]["gigabytes"]}
        report["parts"].append(entry)
        report["seconds"] = time.monotonic() - start
        write_text(output / "report.json", json.dumps(report, indent=1) + "\n")
        write_text(output / "report.md", markdown(report))
        outcome = entry["status"] if entry["status"] == "done" else f"{entry['status']}: {entry['error']}"
        print(f"{part.name:<24}{entry['seconds']:6.1f} s  {outcome}", flush=True)
    return report


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("gpu_report.sh", description=__doc__)
    parser.add_argument("output", type=Path, metavar="OUT", help="folder for the report and the logs")
    parser.add_argument("part", nargs="*", help="only these parts; default: all")
    parser.add_argument("--cpu", action="store_true", help="small sizes on the CPU, to check the parts without a GPU")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="limit of the whole; default: %(default)s")
    return parser


def main() -> None:
    options = parser().parse_intermixed_args()
    if not options.cpu and not torch.cuda.is_available():
        why = "this torch has no CUDA" if torch.version.cuda is None else "see nvidia-smi"
        raise UserError(f"no GPU was found ({why}, torch {torch.__version__}); --cpu runs the CPU-size version")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a part that runs is then ended too
    output = options.output.absolute()
    make_directory(output, "OUT")
    known = {part.name: part for part in (cpu_parts if options.cpu else gpu_parts)()}
    for name in options.part:
        if name not in known:
            raise UserError(f"part {name!r} is unknown{did_you_mean(name, known)}")
    if options.cpu:
        print("CPU-size version: it checks that the parts run; its figures say nothing about a GPU")
    chosen = [part for name, part in known.items() if not options.part or name in options.part]
    report = measure(chosen, output, options.minutes, "cpu" if options.cpu else "cuda")
    print(f"\n{markdown(report)}\n{output}/report.md, report.json")
    if any(entry["status"] == "failed" for entry in report["parts"]):
        raise UserError(f"some parts failed; see {output}/report.md and the logs beside it")


if __name__ == "__main__":
    run_command(main)
