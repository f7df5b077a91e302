"""What the GPU report measures besides speeds and memory: the machine, tests, the first audio and recipes.

Like the functions in cases.py, each takes a case's settings and runs in its own process.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.ops import graphs
from common.ops.triton import runs_kernels
from common.wording import counted
from synthesis.synthesizer import Synthesizer

from benchmarks.cases import measure_peaks
from benchmarks.measuring import seconds_of
from benchmarks.process import REPOSITORY

VOICE, CORPUS = REPOSITORY / "demo/voice", REPOSITORY / "demo/corpus"
CPU_LOSSES = Path(__file__).with_name("cpu_losses.json")
BLOCK = 10  # steps whose mean loss is compared
RATES = ("p_encoder_dropout", "prenet_dropout", "p_attention_dropout", "p_decoder_dropout", "p_postnet_dropout")
NO_DROPOUT = [f"model.{name}=0" for name in (*RATES, "p_frame_dropout", "p_own_frames")]
# ARPAbet, because the dictionary of the voice's own cleaners is not among the core packages.
SENTENCE = "{DH AH0} {K W IH1 K} {B R AW1 N} {F AA1 K S} {JH AH1 M P S} {OW1 V ER0} {DH AH0} {L EY1 Z IY0} {D AO1 G}."


def machine(options: dict[str, Any]) -> dict[str, Any]:
    """The device, the versions, whether Triton kernels and CUDA graphs work here, and the peaks."""
    device = options["device"]
    result: dict[str, Any] = {
        "cpu": f"{platform.processor() or platform.machine()}, {counted(os.cpu_count() or 1, 'core')}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": importlib.metadata.version("triton") if importlib.util.find_spec("triton") else "missing",
        "cuda": torch.version.cuda or "none",
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        result |= {
            "device": properties.name,
            "memory_gb": properties.total_memory / 1e9,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "cudnn": str(torch.backends.cudnn.version()),
            "driver": _driver(),
            "gpus": torch.cuda.device_count(),
        }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result["kernels_work"] = runs_kernels(torch.zeros(1, device=device))
    result["kernels_note"] = "; ".join(str(warning.message) for warning in caught)
    return result | _graphs_work(device) | measure_peaks(options)


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        return f"unknown ({error})"


def _graphs_work(device: str) -> dict[str, Any]:
    """Add three times: directly, while the graph is captured, and by its replay."""
    total, one = torch.zeros(8, device=device), torch.ones(8, device=device)
    try:
        for _ in range(3):
            graphs.graphed(_add, (total,), (one,))
        note = "" if total.tolist() == [3.0] * 8 else "a wrong result"
    except RuntimeError as error:
        note = str(error).splitlines()[0]
    return {"cuda_graphs_work": not note and graphs.num_graphs() > 0, "cuda_graphs_note": note}


def _add(written: tuple[Tensor], read: tuple[Tensor]) -> None:
    written[0].add_(read[0])


class _Outcomes:
    """A pytest plugin that counts outcomes and keeps the names of tests that fail."""

    def __init__(self) -> None:
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or not report.passed:
            self.counts[report.outcome] += 1
        if report.failed:
            self.failed.append(report.nodeid)


def tests(options: dict[str, Any]) -> dict[str, Any]:
    """Run the tests that use a GPU where there is one."""
    if importlib.util.find_spec("pytest") is None:
        raise UserError("pytest is not installed: python -m pip install pytest")
    import pytest

    outcomes = _Outcomes()
    status = pytest.main(["-p", "no:cacheprovider", *options["arguments"]], plugins=[outcomes])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise UserError(f"pytest ended with status {int(status)}")
    return {**outcomes.counts, "failures": outcomes.failed}


def first_audio(options: dict[str, Any]) -> dict[str, Any]:
    """Measure how long a new process needs for its first sentence, and for the same sentence later."""
    device = options["device"]
    files = VOICE / "tacotron2.safetensors", VOICE / "waveglow.safetensors"
    voice = Synthesizer.load(*files, device=device)
    voice.reader.cleaners = "english_cleaners"
    loaded = time.monotonic()
    utterance = voice.speak(SENTENCE)
    first = time.monotonic()
    later = seconds_of(lambda: voice.speak(SENTENCE), options["runs"], device)
    return {
        "seconds_from_start": first - options["started"],
        "seconds_of_loading": loaded - options["started"],
        "seconds_of_first_sentence": first - loaded,
        "seconds_of_later_sentence": statistics.median(later),
        "audio_seconds": utterance.stats["audio_seconds"],
        "stopped_by_itself": not utterance.truncated,
    }


def recipe(options: dict[str, Any]) -> dict[str, Any]:
    """Train with a small recipe on the bundled corpus, and compare the losses with those of a CPU.

    The same seed gives the same weights and batches on every device, but not the same dropout, so dropout is off: two
    runs on a CPU that differ only in it have losses that differ by up to 3.5.
    """
    name = options["model"]
    with tempfile.TemporaryDirectory() as directory:
        corpus, run_dir = Path(directory) / "corpus", Path(directory) / "run"
        shutil.copytree(CORPUS, corpus, ignore=shutil.ignore_patterns("mels", "filelists"))
        for script in ("prepare_dataset.sh", "prepare_mels.sh"):
            _run("bash", str(REPOSITORY / "scripts" / script), str(corpus))
        overrides = [
            "experiment=demo", f"data.root={corpus}", "data.sentences=[]", f"model={name}", f"run_dir={run_dir}",
            f"trainer.device={options['device']}", f"trainer.max_steps={options['steps']}", "trainer.log_every_steps=1",
            "trainer.val_batches=1", "trainer.progress=false",
        ]  # fmt: skip
        without = NO_DROPOUT if name == "tacotron2_small" else []
        _run(sys.executable, str(REPOSITORY / "train.py"), *overrides, *without)
        lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    log = [line for line in lines if "train_loss" in line]
    losses, speeds = [line["train_loss"] for line in log], [line["train_items_per_sec"] for line in log]
    return {
        **compared(losses, **json.loads(CPU_LOSSES.read_text(encoding="utf-8"))[name]),
        "steps": len(log),
        "items_per_sec": statistics.median(speeds[len(speeds) // 2 :]),
        "losses": losses,
    }


def _run(*command: str) -> None:
    """Run a command whose output goes to the log of the part. If it fails, so does the part, with its last message."""
    environment = {**os.environ, "PYTHON": sys.executable}
    if status := subprocess.run(command, cwd=REPOSITORY, env=environment).returncode:
        sys.exit(abs(status))


def compared(losses: list[float], reference: list[float], tolerance: float) -> dict[str, Any]:
    """Compare the mean losses of blocks of steps with those of a CPU, `reference`, and the first loss, which may differ
    by a tenth of the tolerance.

    Rounding errors grow from step to step. The tolerance is about twice the largest difference that bf16 makes on a CPU
    (0.55 for Tacotron 2, 0.04 for WaveGlow); TF32 rounds less.
    """

    def means(values: list[float]) -> list[float]:
        return [statistics.mean(values[i : i + BLOCK]) for i in range(0, len(values), BLOCK)]

    ours, theirs = means(losses), means(reference[: len(losses)])
    differences = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    agrees = all(difference <= tolerance for difference in differences)  # false for NaN
    return {
        "first_loss": losses[0],
        "last_loss": ours[-1],
        "cpu_first_loss": reference[0],
        "cpu_last_loss": theirs[-1],
        "largest_difference": max(differences),
        "tolerance": tolerance,
        "agrees": agrees and abs(losses[0] - reference[0]) <= tolerance / 10,
    }


PARTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "machine": machine,
    "tests": tests,
    "first_audio": first_audio,
    "recipe": recipe,
}
