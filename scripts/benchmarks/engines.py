"""The sweep of Bark and AudioLDM 2: what each optimization does to latency, memory and throughput."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import yaml

from common.conf import read_yaml
from common.device import now, resolve_device
from common.errors import UserError
from synthesis.engines.loading import OPTIONS, OWN, engine_options, load_engine
from synthesis.options import SpeechOptions

from benchmarks.measuring import WARM_UP, measured

PLAIN: dict[str, Any] = {"attention": "eager"}
SDPA = {"attention": "sdpa"}
OFFLOAD = {"offload": True}
COMPILED = {"compile": True}
FAST = {"scheduler": "DPMSolverMultistep", "num_inference_steps": 20}


def chosen_engines(arguments: Sequence[str]) -> list[dict[str, Any]]:
    """The engines that "engine=bark engine.model=DIR ..." names, each with the values of its keys."""
    engines: list[dict[str, Any]] = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "engine":
            if value not in (OWN, *OPTIONS):
                raise UserError(f"{argument} is unknown; choose from: {', '.join((OWN, *OPTIONS))}")
            engines.append(read_yaml(f"engine/{value}"))
        elif key.startswith("engine.") and engines:
            engines[-1][key.removeprefix("engine.")] = yaml.safe_load(value)
        else:
            raise UserError(f"{argument}: name the engine first, such as engine=bark engine.model=DIR")
    for values in engines:
        engine_options(values)  # checks them
    return engines


def sweep(values: dict[str, Any], device: str) -> list[dict[str, Any]]:
    """The cases of an engine, first without any optimization; `values` are its options."""
    half = "fp16" if device == "cuda" else "bf16"
    changes: dict[str, tuple[dict[str, Any], str]] = {
        "plain": (PLAIN, "fp32"),
        "sdpa": (SDPA, "fp32"),
        "offload": (PLAIN | OFFLOAD, "fp32"),
        half: (PLAIN, half),
        f"sdpa {half}": (SDPA, half),
        f"sdpa {half} offload": (SDPA | OFFLOAD, half),
    }
    if values["name"] == "audioldm2":
        changes |= {"20 steps": (PLAIN | FAST, "fp32"), f"sdpa {half} 20 steps": (SDPA | FAST, half)}
    if values["name"] == "audioldm2" and device == "cuda":  # for a CPU it takes many minutes: engine.compile=true asks
        changes |= {
            f"sdpa {half} compiled": (SDPA | COMPILED, half),
            f"sdpa {half} 20 steps compiled": (SDPA | FAST | COMPILED, half),
        }
    return [
        {"kind": "engine", "implementation": label, "engine": values | options, "precision": precision}
        for label, (options, precision) in changes.items()
    ]


def measure_engine(case: dict[str, Any]) -> dict[str, Any]:
    """Measure an engine with one text of `characters`, `batch` times at once, with a fixed seed.

    The first audio is that of the first text of the batch.
    """
    options, device = engine_options(case["engine"]), resolve_device(case["device"])
    assert options is not None
    engine = load_engine(options, device, case["precision"])
    engine.warm_up()
    words = "the quick brown fox jumps over a lazy dog and so on "
    text = (words * (1 + case["characters"] // len(words)))[: case["characters"] - 1] + "."
    first, sizes = list[float](), list[int]()

    def run() -> None:
        sizes.clear()
        start = now(device)
        for part in engine.parts([text] * case["batch"], case["batch"], SpeechOptions()):
            assert part.utterance is not None
            if not sizes:
                first.append(now(device) - start)
            sizes.append(len(part.utterance.audio))

    result = measured(run, case)
    first_audio = statistics.mean(first[WARM_UP[case["device"]] :])
    return result | {"items": sum(sizes), "rate": engine.audio.sample_rate, "first_audio": first_audio}
