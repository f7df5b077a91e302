"""Measure the speed of training and synthesis on this machine, and compare it with hardware limits and other projects.

    python scripts/benchmark.py                                  everything, at full size
    python scripts/benchmark.py training free_running            some sections
    python scripts/benchmark.py --json benchmark.json --runs 10  more runs, and all figures as JSON
    python scripts/benchmark.py training --batch 16 --frames 800 other sizes than the defaults
    python scripts/benchmark.py sweep --voice demo/voice         synthesis with a voice, not with untrained models
    python scripts/benchmark.py sweep engine=bark engine.model=suno/bark-small engine=audioldm2 engine.model=DIR

Sections: training (a step of each model), free_running (Tacotron 2 alone, per frame), waveglow (the inverse),
synthesis (latency from text to audio), sweep (the effect of each optimization on synthesis: latency, first audio,
memory and throughput), growth (cost versus characters, frames and batch size), mels.

Each case runs in its own process, so that its peak memory is its own. Some speeds are also given as a fraction of the
machine's limit (GEMM peak or memory bandwidth, measured in the same run) or as multiples of real time. The Tacotron 2
models of torchaudio and SpeechBrain are measured too if they are installed.
"""

from __future__ import annotations

import checkout  # noqa: F401

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from common.entry import run_command
from common.errors import UserError
from common.ops.precision import set_tf32
from synthesis.engines.loading import OWN

from benchmarks.cases import MEASURES, RATE, accelerated
from benchmarks.engines import chosen_engines, sweep
from benchmarks.gpu_parts import PARTS
from benchmarks.peers import installed
from benchmarks.process import run_json

PERCENTILES = (50, 90, 95, 99)
SIZES = ("batch", "characters", "frames", "samples")

# ---- sections ----


def sections(device: str, peers: list[str], given: dict[str, int]) -> dict[str, list[dict[str, Any]]]:
    """The cases of each section. Those of one `group` are compared with its first. The sizes in `given` replace the
    defaults, except those of growth, which varies them."""

    def size(name: str, *usual: int) -> tuple[int, ...]:
        return (given[name],) if name in given else usual

    names = [*peers, "step by step", "ours"]
    training = [
        {"kind": "tacotron2_training", "group": f"Tacotron 2, batch {batch}", "implementation": name, "batch": batch,
         "characters": characters, "frames": frames}
        for batch in size("batch", *((8, 32) if device == "cpu" else (32, 128)))
        for characters in size("characters", 100) for frames in size("frames", 500) for name in names
    ]  # fmt: skip
    training += [
        {"kind": "waveglow_training", "group": f"WaveGlow {channels}, batch {batch}", "implementation": name,
         "batch": batch, "channels": channels, "samples": samples}
        for channels, usual in ((256, 4), (512, 1)) for batch in size("batch", usual)
        for samples in size("samples", 8000) for name in ("ours", "checkpointed")
    ]  # fmt: skip
    free_running = [{"implementation": name} for name in names]
    free_running += [{"implementation": "ours", "precision": precision} for precision in ("bf16", "fp16", "int8")]
    synthesis = {"kind": "synthesis", "implementation": "ours", "batch": 1, "characters": 128}
    sweep: list[dict[str, Any]] = [{"implementation": "plain"}, {"implementation": "compiled"}, {}]
    sweep += [{"precision": precision} for precision in ("bf16", "fp16", *(["int8"] if device == "cpu" else []))]
    sweep += [{"implementation": "offloaded"}]
    return {
        "training": training,
        "free_running": [
            {"kind": "free_running", "group": f"batch {batch}", "batch": batch, "characters": characters,
             "frames": frames} | case
            for batch in size("batch", 1) for characters in size("characters", 100) for frames in size("frames", 400)
            for case in free_running if device == "cpu" or case.get("precision") != "int8"
        ],
        "waveglow": [
            {"kind": "waveglow", "group": "256 channels", "batch": batch, "channels": 256, "frames": frames,
             "precision": precision}
            for batch in size("batch", 1) for frames in size("frames", 200) for precision in ("fp32", "bf16")
        ],
        "synthesis": [
            {**synthesis, "group": f"batch {batch}", "batch": batch, "characters": characters}
            for batch in size("batch", 1, 4) for characters in size("characters", 64, 128, 256)
        ],
        "sweep": [
            {**synthesis, "group": f"{characters} characters, batch {batch}", "characters": characters, "batch": batch,
             **case}
            for characters in size("characters", 32) for batch in size("batch", 1, 8) for case in sweep
        ],
        "growth": [
            {"kind": "tacotron2_training", "implementation": "ours", "group": name, "batch": 8, "characters": 64,
             "frames": 128} | {name: factor * smallest}
            for name, smallest in (("characters", 64), ("frames", 128), ("batch", 8)) for factor in (1, 2, 4)
        ],
        "mels": [{"kind": "mels", "group": "one core, reading included"}],
    }  # fmt: skip


def sweep_of(
    engines: list[dict[str, Any]], own: list[dict[str, Any]], device: str, given: dict[str, int]
) -> list[dict[str, Any]]:
    """The cases of several engines; `own` are those of Tacotron 2 + WaveGlow."""
    characters, batches = given.get("characters", 32), (given["batch"],) if "batch" in given else (1, 8)
    cases, names = [], [engine["name"] for engine in engines]
    for engine in engines:
        if engine["name"] == OWN:
            cases += own
        name = engine["name"] if names.count(engine["name"]) == 1 else engine["model"]
        cases += [
            {**case, "group": f"{name}, {characters} characters, batch {batch}", "characters": characters,
             "batch": batch}
            for batch in batches for case in (sweep(engine, device) if engine["name"] != OWN else [])
        ]  # fmt: skip
    return cases


# ---- running and printing ----


def command(case: dict[str, Any]) -> list[str]:
    """The command that measures a case."""
    return [sys.executable, __file__, "--case", json.dumps(case)]


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Measure a case in a new process."""
    try:
        return run_json(command(case))
    except UserError as error:
        raise UserError(f"left out {case}: {error}") from error


def figures(case: dict[str, Any], result: dict[str, Any], peaks: dict[str, Any]) -> dict[str, Any]:
    """The figures to report for a result."""
    times = sorted(result["seconds"])
    mean = statistics.mean(times)
    values = {
        "seconds": mean,
        "seconds_std": statistics.pstdev(times),
        **{f"seconds_{p}": times[min(len(times) - 1, len(times) * p // 100)] for p in PERCENTILES},
        "items_per_sec": result["items"] / mean,
        "peak_growth_mb": result["megabytes"],
        "peak_mb": result["peak_megabytes"],
    }
    values |= {key: result[key] for key in ("kernels", "graphs", "first_audio") if key in result}
    if "flops" in result and case["precision"] in peaks["gflops"]:
        values["share_of_gemm_peak"] = result["flops"] / mean / 1e9 / peaks["gflops"][case["precision"]]
    if "bytes" in result:
        values["share_of_bandwidth"] = result["bytes"] / mean / 1e9 / peaks["gigabytes"]
    if "mels" in result:
        values |= {"mels": result["mels"], "audio_seconds": result["items"] / RATE}
    if case["kind"] in ("synthesis", "waveglow", "mels", "engine"):
        values["times_real_time"] = result["items"] / result.get("rate", RATE) / mean
    return values


LABELS = ("implementation", "precision", "characters", "frames", "batch")


def table(rows: list[dict[str, Any]]) -> str:
    """One line per case: its speed and memory, also relative to the first case of its group."""
    lines = []
    first: dict[str, Any] = {}
    for row in rows:
        if row["section"] != first.get("section"):
            lines.append(f"\n{row['section']}")
        if (row["section"], row["group"]) != (first.get("section"), first.get("group")):
            first = row
            lines.append(f"  {row['group']:<35}   latency           items/s         memory growth        peak memory")
        label = " ".join(f"{k[0]}{row[k]}" if isinstance(row[k], int) else str(row[k]) for k in LABELS if k in row)
        line = f"    {label:<33}{row['seconds']:8.3f} s {row['items_per_sec']:12,.0f}"
        line += f" {row['items_per_sec'] / first['items_per_sec']:5.2f} x"
        if "first_audio" in row:
            line += f"  first audio {row['first_audio']:.3f} s {row['first_audio'] / first['first_audio']:5.2f} x"
        for key in ("peak_growth_mb", "peak_mb"):
            line += f"  {row[key]:6,.0f} MB {row[key] / max(first[key], 1):5.2f} x"
        for key in ("share_of_gemm_peak", "share_of_bandwidth"):
            line += f"  {row[key]:5.1%} of {key.removeprefix('share_of_')}" if key in row else ""
        line += f"  {row['times_real_time']:,.1f} x real time" if "times_real_time" in row else ""
        lines.append(line)
    return "\n".join(lines)


def latencies(rows: list[dict[str, Any]]) -> str:
    """The synthesis section in the format of the reference's tables, without percentiles that need more runs."""
    percentiles = "".join(f"{f'{p} %':>8}" for p in PERCENTILES)
    lines = [f"\n  batch characters   avg s   std s{percentiles}   samples/s   mels  audio s  times_real_time"]
    for row in rows:
        known = (p for p in PERCENTILES if row["runs"] * (100 - p) >= 100)
        times = "".join(f"{row[f'seconds_{p}']:8.3f}" for p in known).ljust(8 * len(PERCENTILES))
        lines.append(
            f"  {row['batch']:5} {row['characters']:10}{row['seconds']:8.3f}{row['seconds_std']:8.3f}{times}"
            f"{row['items_per_sec']:12,.0f}{row['mels']:7,}{row['audio_seconds']:9.2f}{row['times_real_time']:17.2f}"
        )
    return "\n".join(lines)


def exponents(rows: list[dict[str, Any]]) -> str:
    """How time and memory grow between the smallest and the largest size of each group: the exponent p of
    "seconds ~ size ** p", where 1 is linear."""
    lines = [""]
    for group in dict.fromkeys(row["group"] for row in rows):
        sized = [row for row in rows if row["group"] == group]
        if len(sized) < 2:  # the other cases failed
            continue
        small, large = sized[0], sized[-1]
        ratio = large[group] / small[group]
        power = {key: math.log(large[key] / small[key]) / math.log(ratio) for key in ("seconds", "peak_growth_mb")}
        lines.append(
            f"  {group} x {ratio:.0f}: seconds ~ {group} ** {power['seconds']:.2f}, memory ~ {group} ** "
            f"{power['peak_growth_mb']:.2f}"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "section",
        nargs="*",
        help="training, free_running, waveglow, synthesis, sweep, growth, mels; default: all. With sweep, also "
        "engine=NAME engine.KEY=VALUE ..., for one or several engines (conf/engine)",
    )
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each case, after one warm-up; default: 3")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or fp16, for cases that do not set one")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, choices=("cpu", "cuda"), help="default: cuda if there is a GPU")
    for name in SIZES:
        parser.add_argument(f"--{name}", type=int, help=f"value of {name}, instead of the default")
    parser.add_argument("--voice", help="voice for synthesis and sweep; default: full-size models, untrained")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    options = parser().parse_args()
    if options.case:
        set_tf32(True)
        result = (MEASURES | PARTS)[options.case["kind"]](options.case)
        print("\n" + json.dumps(result | accelerated()))  # on a line of its own, whatever was printed before
        return
    if options.runs < 1:
        raise UserError(f"--runs {options.runs}: at least 1")
    given = {name: getattr(options, name) for name in SIZES if getattr(options, name) is not None}
    for name, value in given.items():
        if value < 1:
            raise UserError(f"--{name} {value}: at least 1")
    known = sections(options.device, [], given)
    engines = chosen_engines([name for name in options.section if "=" in name])
    options.section = [name for name in options.section if "=" not in name]
    if engines and options.section != ["sweep"]:
        raise UserError(f"engine={engines[0]['name']}: engines have one section: sweep")
    for name in options.section:
        if name not in known:
            raise UserError(f"section {name!r} is unknown; choose from: {', '.join(known)}")
    names = options.section or list(known)
    if options.voice and (others := sorted(set(names) - {"synthesis", "sweep"})):
        raise UserError(f"--voice {options.voice}: {', '.join(others)} has none; name a section: synthesis or sweep")
    if {"training", "free_running"} & set(names):
        known = sections(options.device, installed(), given)
    if engines:
        known["sweep"] = sweep_of(engines, known["sweep"], options.device, given)
    defaults = {"device": options.device, "runs": options.runs, "precision": options.precision}
    peaks = run_case({"kind": "peaks", **defaults})
    gflops = ", ".join(f"{precision} {value:,.0f}" for precision, value in peaks["gflops"].items())
    print(f"{options.device}: GEMM peak {gflops} GFLOP/s, memory {peaks['gigabytes']:,.1f} GB/s")
    rows: list[dict[str, Any]] = []
    for name in names:
        for case in known[name]:
            case = defaults | case | ({"voice": options.voice} if options.voice else {})
            try:
                rows.append({"section": name, **case, **figures(case, run_case(case), peaks)})
            except UserError as error:
                print(error, file=sys.stderr)
            if options.json:
                options.json.write_text(json.dumps({"peaks": peaks, "rows": rows}, indent=1) + "\n", encoding="utf-8")
            print(f"  {name}: {len(rows)} done", end="\r", file=sys.stderr, flush=True)
    print(table(rows))
    for name, summary in (("synthesis", latencies), ("growth", exponents)):
        if of_section := [row for row in rows if row["section"] == name]:
            print(summary(of_section))


if __name__ == "__main__":
    run_command(main)
