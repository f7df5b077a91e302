"""The GPU report: its parts run, each failure is named, and its table says what was measured."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import UserError
from tests.helpers import REPOSITORY

from benchmarks import gpu_parts, gpu_report, process
from benchmarks.gpu_report import Part
from benchmarks.tables import markdown


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_a_result_is_the_last_json_of_the_output(tmp_path: Path) -> None:
    code = "import sys; print('{\"a\": 1}'); print('{\"a\": 2}'); print('a note', file=sys.stderr)"
    assert process.run_json(python(code), tmp_path / "log") == {"a": 2}
    assert "a note" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print('error: what to do'); raise SystemExit(1)", "what to do"),
        ("raise ValueError('a line\\nand advice that follows it')", "ValueError: a line"),
        ("raise SystemExit(3)", "ended with status 3"),
        ("import os; os.kill(os.getpid(), 9)", "ended by SIGKILL; the usual cause is too little memory"),
        ("print('nothing')", "ended without a result"),
    ],
)
def test_the_reason_of_a_failure(code: str, reason: str) -> None:
    with pytest.raises(UserError) as error:
        process.run_json(python(code))
    assert str(error.value) == reason


def test_a_command_is_killed_at_its_limit_with_its_children(tmp_path: Path) -> None:
    child = f"import time; time.sleep(1); open({str(tmp_path / 'late')!r}, 'w')"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {child!r}])"
    with pytest.raises(UserError, match="stopped at its limit"):
        process.run_json(python(code), limit=0.3)
    time.sleep(1)
    assert not (tmp_path / "late").exists()


@pytest.mark.slow
def test_parts_fail_alone(tmp_path: Path) -> None:
    """One that fails, one that exceeds its limit, one that cannot run here, and one for which no time is left."""
    sizes = {"implementation": "ours", "channels": 8, "samples": 2048, "batch": 1, "runs": 1}
    parts = [
        Part("slow", "first_audio", 0.1, {"runs": 1}),
        Part("absent", "tests", 60, missing="it is not installed"),
        Part("wrong", "waveglow_training", 300, {**sizes, "precision": "fp8"}),
    ]
    report = gpu_report.measure(parts, tmp_path, 9.0, "cpu")
    late = gpu_report.measure([Part("late", "machine", 60)], tmp_path / ".", 0.1, "cpu")
    assert json.loads((tmp_path / "report.json").read_text()) == late
    found = {entry["name"]: (entry["status"], entry["error"]) for entry in report["parts"] + late["parts"]}
    assert found["slow"] == ("failed", "stopped at its limit of 0 s")
    assert found["absent"] == ("not run", "it is not installed")
    assert found["wrong"][1].startswith("precision='fp8' is unknown")
    assert found["late"] == ("not run", "no time was left")
    assert "fp8" in (tmp_path / "wrong.log").read_text()
    assert "| wrong | **failed**: precision='fp8' is unknown; " in markdown(report)
    assert "| log: wrong.log |" in markdown(report)


def test_the_bundled_voice_reads_its_sentence() -> None:
    found = gpu_parts.first_audio({"device": "cpu", "runs": 1, "started": time.monotonic()})
    assert found["stopped_by_itself"]
    assert 1.5 < found["audio_seconds"] < 4.0
    assert found["seconds_of_loading"] < found["seconds_from_start"]


def test_losses_are_compared_by_blocks() -> None:
    """Single steps may differ by more than the tolerance, except the first, their mean not; NaN never agrees."""
    reference = [float(i) for i in range(100, 0, -1)]
    wobbly = [x + (0.0, 3.0, -3.0)[i % 10 % 3] for i, x in enumerate(reference)]
    near = gpu_parts.compared(wobbly, reference, 1.0)
    assert near["agrees"]
    assert near["largest_difference"] == pytest.approx(0.0)
    assert near["last_loss"] == near["cpu_last_loss"] == 5.5
    far = gpu_parts.compared([x + 1.5 * (i >= 90) for i, x in enumerate(reference)], reference, 1.0)
    assert not far["agrees"]
    assert far["largest_difference"] == pytest.approx(1.5)
    assert not gpu_parts.compared([*reference[:-1], float("nan")], reference, 1.0)["agrees"]
    assert gpu_parts.compared(reference[:2], reference, 1.0)["agrees"]
    assert not gpu_parts.compared([100.2, *reference[1:]], reference, 1.0)["agrees"]


def test_the_table() -> None:
    """Known figures stand beside the published ones, and the report says what computed them."""
    machine = {
        "device": "H100", "memory_gb": 85.0, "compute_capability": "9.0", "driver": "580.1", "cudnn": "91000",
        "gpus": 1, "cpu": "x86_64, 16 cores", "python": "3.11.7", "torch": "2.13.0", "cuda": "13.0", "triton": "3.7.1",
        "gflops": {"fp32": 400000.0}, "gigabytes": 3000.0, "kernels_work": False, "kernels_note": "no C compiler",
        "cuda_graphs_work": True, "cuda_graphs_note": "",
    }  # fmt: skip
    training = {
        "seconds": 0.5, "items_per_sec": 128000.0, "peak_mb": 20000.0, "share_of_gemm_peak": 0.25,
        "kernels": ["tacotron2.step_triton"], "graphs": 7,
    }  # fmt: skip
    sizes = {"implementation": "ours", "precision": "fp32", "batch": 128, "frames": 500}
    tests = {"passed": 12, "failed": 1, "skipped": 0, "failures": ["tests/test_triton.py::test_lstm_cell"]}
    parts: list[dict[str, Any]] = [
        {"name": "machine", "kind": "machine", "status": "done", "values": machine},
        {"name": "tests", "kind": "tests", "status": "done", "values": tests},
        {"name": "tacotron2", "kind": "tacotron2_training", "status": "done", "values": training, **sizes},
        {"name": "chain_1", "kind": "synthesis", "status": "failed", "error": "out of | memory", "log": "chain_1.log"},
    ]
    text = markdown({"size": "cuda", "minutes": 9, "seconds": 321.0, "parts": parts})
    assert "- H100, 85 GB, compute capability 9.0, driver 580.1, cuDNN 91000; one of 1 GPUs" in text
    assert "- torch 2.13.0, CUDA 13.0, Triton 3.7.1" in text
    assert "- Triton kernels: off: plain PyTorch computes instead, slower (no C compiler)" in text
    assert "- CUDA graphs: work\n" in text
    assert "| tests | **12 passed, 1 failed, 0 skipped** |  | tests/test_triton.py::test_lstm_cell |" in text
    assert "| tacotron2 | 128,000 frames/s | 31,499 frames/s (NVIDIA, one A100, TF32), 280,476 (eight) | ours" in text
    assert (
        "0.500 s per step, 25% of the GEMM peak, 20,000 MB at most; Triton kernels of tacotron2, 7 CUDA graphs" in text
    )
    assert "| chain_1 | **failed**: out of \\| memory | 0.80 s for 7.0 s of audio" in text
    assert "It took 321 s of 540 s." in text
    assert "CPU-size" not in text
    assert "**CPU-size version.**" in markdown({"size": "cpu", "minutes": 9, "seconds": 1.0, "parts": parts})


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_must_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_report.sh", str(tmp_path)])
    with pytest.raises(UserError, match=r"no GPU was found .*; --cpu runs the CPU-size version"):
        gpu_report.main()


def test_a_part_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_report.sh", str(tmp_path), "--cpu", "chain_2"])
    with pytest.raises(UserError, match="part 'chain_2' is unknown; did you mean"):
        gpu_report.main()


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    """On the CPU, with parts of each kind. Each imports PyTorch anew and a recipe trains, hence the time."""
    script, names = REPOSITORY / "scripts/benchmarks/gpu_report.sh", ("tests", "waveglow_fp32", "recipe_waveglow")
    result = subprocess.run(
        ["bash", str(script), "out", "--cpu", *names],
        cwd=tmp_path, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "CPU-size version" in result.stdout
    report = json.loads((tmp_path / "out/report.json").read_text())
    values = {entry["name"]: entry["values"] for entry in report["parts"]}
    assert values["tests"]["passed"] == 1
    assert values["waveglow_fp32"]["items_per_sec"] > 0
    assert values["recipe_waveglow"]["agrees"]
    assert values["recipe_waveglow"]["largest_difference"] < 1e-3  # both on a CPU
    assert "as on a CPU" in (tmp_path / "out/report.md").read_text()
