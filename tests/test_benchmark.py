"""The benchmark counts operations correctly, and all its cases run."""

import json
from pathlib import Path
from typing import Any

import benchmark
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tacotron2.model import Tacotron2, Tacotron2Config
from tests.helpers.commands import run_here
from tests.helpers.tacotron2 import NO_DROPOUT
from waveglow.model import WaveGlow, WaveGlowConfig

from benchmarks import cases as benchmark_cases


def test_tacotron2s_operations_are_counted() -> None:
    """The count equals PyTorch's for the step-by-step decoder, plus the encoder's LSTM, which PyTorch leaves out."""
    config = Tacotron2Config(**NO_DROPOUT, attention_location_n_filters=1)
    model = Tacotron2(config)
    model.decoder.fused = False
    batch, characters, frames = 2, 20, 6
    text, lengths = benchmark_cases.random_text(batch, characters, "cpu")
    mel = torch.randn(batch, 80, frames)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(text, lengths, mel, torch.full((batch,), frames))
    ours = benchmark_cases.tacotron2_flops(config, batch, characters, frames)
    lstm = 2 * batch * characters * sum(p.numel() for p in model.encoder.lstm.parameters() if p.dim() == 2)
    assert counter.get_total_flops() + lstm == pytest.approx(ours, rel=0.01)


def test_waveglows_operations_are_counted() -> None:
    model = WaveGlow(WaveGlowConfig(n_channels=64))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(1, 80, 20), torch.randn(1, 5120))
    assert counter.get_total_flops() == pytest.approx(benchmark_cases.waveglow_flops(model, 5120), rel=0.05)


def test_figures_of_known_times() -> None:
    case = {"kind": "waveglow", "runs": 4, "precision": "bf16"}
    result = {"seconds": [1.0, 1.0, 1.0, 3.0], "megabytes": 5.0, "peak_megabytes": 7.0, "items": 22050, "flops": 3e9}
    values = benchmark.figures(case, result, {"gflops": {"fp32": 1.0, "bf16": 4.0}, "gigabytes": 1.0})
    assert values["seconds"] == 1.5
    assert values["items_per_sec"] == 22050 / 1.5
    assert values["seconds_50"] == 1.0
    assert values["seconds_99"] == 3.0
    assert values["share_of_gemm_peak"] == pytest.approx(0.5)
    assert values["times_real_time"] == pytest.approx(1 / 1.5)


@pytest.mark.parametrize(
    "case",
    [
        {"kind": "tacotron2_training", "implementation": "ours", "batch": 2, "characters": 9, "frames": 5},
        {"kind": "free_running", "implementation": "ours", "batch": 1, "characters": 9, "frames": 5},
        {"kind": "waveglow", "batch": 1, "channels": 8, "frames": 3},
        {"kind": "waveglow_training", "implementation": "checkpointed", "batch": 1, "channels": 8, "samples": 2048},
        {"kind": "synthesis", "implementation": "ours", "batch": 2, "characters": 5, "channels": 8},
        {"kind": "synthesis", "implementation": "offloaded", "batch": 1, "characters": 3, "channels": 8},
        {"kind": "synthesis", "implementation": "ours", "batch": 1, "characters": 9, "voice": "demo/voice"},
        {"kind": "mels"},
    ],
)
@pytest.mark.slow
def test_every_kind_of_case_runs(case: dict[str, Any]) -> None:
    threads = torch.get_num_threads()
    result = benchmark_cases.MEASURES[case["kind"]]({"device": "cpu", "runs": 2, "precision": "fp32"} | case)
    torch.set_num_threads(threads)
    assert len(result["seconds"]) == 2
    assert min(result["seconds"]) > 0
    assert result["items"] > 0
    if case["kind"] == "synthesis":
        assert 0 < result["first_audio"] <= 2 * max(result["seconds"])
        if "voice" not in case:  # what does not stop by itself is not tried again
            assert result["mels"] == 6 * case["characters"] * case["batch"]


def test_sizes_from_the_command_line() -> None:
    usual, other = benchmark.sections("cpu", [], {}), benchmark.sections("cpu", [], {"batch": 3, "frames": 77})
    assert {case["batch"] for case in usual["training"]} == {1, 4, 8, 32}
    for section in ("training", "free_running", "waveglow"):
        assert {case["batch"] for case in other[section]} == {3}
        assert {case["frames"] for case in other[section] if "frames" in case} == {77}
    assert other["growth"] == usual["growth"]


def test_growth_of_known_costs() -> None:
    rows = [{"group": "frames", "frames": n, "seconds": n**2 / 7, "peak_growth_mb": 3.0 * n} for n in (100, 200, 400)]
    assert "frames x 4: seconds ~ frames ** 2.00, memory ~ frames ** 1.00" in benchmark.exponents(rows)


def test_tables_of_known_rows() -> None:
    common = {"section": "synthesis", "group": "batch 1", "peak_growth_mb": 2.0, "peak_mb": 8.0, "mels": 9, "batch": 1}
    percentiles = {f"seconds_{p}": p / 100 for p in benchmark.PERCENTILES}
    common |= percentiles | {
        "seconds_std": 0.5,
        "audio_seconds": 3.0,
        "times_real_time": 6.0,
        "characters": 64,
        "runs": 20,
    }
    rows = [common | {"seconds": 2.0, "items_per_sec": 10.0}, common | {"seconds": 1.0, "items_per_sec": 40.0}]
    assert " 4.00 x" in benchmark.table(rows).splitlines()[-1]
    last = benchmark.latencies(rows).splitlines()[-1].split()
    assert last == ["1", "64", "1.000", "0.500", "0.500", "0.900", "0.950", "40", "9", "3.00", "6.00"]


@pytest.mark.slow
def test_a_section_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    result = run_here("scripts/benchmark.py", "mels", "--runs", "1", "--json", out)
    assert "GEMM peak" in result.stdout
    assert "x real time" in result.stdout
    assert json.loads(out.read_text())["rows"][0]["times_real_time"] > 1
    assert "choose from: training" in run_here("scripts/benchmark.py", "speed", expect=1).stderr
