"""How fast training and synthesis are on this machine, against its limits and against others, in one run.

    python scripts/benchmark.py                                  everything, at full size
    python scripts/benchmark.py training free_running            some of it
    python scripts/benchmark.py --json benchmark.json --runs 10  more runs, and all figures as JSON

Sections: training (a step of both models), free_running (Tacotron 2 alone, a frame), waveglow (the inverse), synthesis
(latency from characters to audio, the reference's table), growth (cost against characters, frames, batch), mels.

Training, free_running, waveglow and growth are also given as a share of the machine's own limit, GEMM peak or memory
bandwidth, measured in the same run; waveglow, synthesis and mels as multiples of real time. Each case
runs in a process of its own, so that its peak memory is its own. torchaudio's Tacotron 2 is a peer if it is installed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from common.config import AudioConfig
from common.entry import fail
from common.errors import UserError
from common.packed import PackedLinear
from common.precision import autocast, set_tf32
from inference import INT8, Synthesizer
from tacotron2.loss import tacotron2_loss
from tacotron2.model import Tacotron2, Tacotron2Config
from tacotron2.text import SYMBOLS
from waveglow.loss import waveglow_loss
from waveglow.model import WaveGlow, WaveGlowConfig

HOP = AudioConfig().hop_length
RATE = AudioConfig().sample_rate
PERCENTILES = (50, 90, 95, 99)

# ---- the machine ----


def seconds_of(function: Callable[[], object], runs: int, device: str, warm_up: int = 1) -> list[float]:
    """Of each of `runs` calls, after `warm_up` that do not count."""
    times = []
    for i in range(warm_up + runs):
        start = _now(device)
        function()
        if i >= warm_up:
            times.append(_now(device) - start)
    return times


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure_peaks(case: dict[str, Any]) -> dict[str, Any]:
    """GEMM peak by the faster of BLAS and oneDNN, and the bandwidth of reading 512 MiB."""
    device = case["device"]
    a, b = (torch.randn(2048, 2048, device=device) for _ in range(2))
    packed = PackedLinear(b, 2048)
    gemm = min(*seconds_of(lambda: a @ b, 5, device), *seconds_of(lambda: packed(a), 5, device))
    big = torch.randn(2**27, device=device)
    read = min(seconds_of(big.sum, 5, device))
    return {"gflops": 2 * 2048**3 / gemm / 1e9, "gigabytes": 4 * big.numel() / read / 1e9}


# ---- what is counted ----


def tacotron2_flops(config: Tacotron2Config, batch: int, characters: int, frames: int) -> float:
    """Multiplications and additions of a teacher-forced forward pass."""
    c = config
    per_frame = 4 * c.attention_rnn_dim * (c.prenet_dim + c.encoder_embedding_dim + c.attention_rnn_dim)
    per_frame += 4 * c.decoder_rnn_dim * (c.attention_rnn_dim + c.encoder_embedding_dim + c.decoder_rnn_dim)
    per_frame += c.prenet_dim * (c.n_mel_channels + c.prenet_dim) + c.attention_rnn_dim * c.attention_dim
    per_frame += c.n_mel_channels * (c.decoder_rnn_dim + c.encoder_embedding_dim)
    location = 2 * c.attention_location_kernel_size * c.attention_dim + c.attention_dim + c.encoder_embedding_dim
    dims = [c.n_mel_channels, *[c.postnet_embedding_dim] * (c.postnet_n_convolutions - 1), c.n_mel_channels]
    postnet = sum(a * b for a, b in itertools.pairwise(dims)) * c.postnet_kernel_size
    encoder = c.encoder_n_convolutions * c.encoder_kernel_size * c.encoder_embedding_dim**2
    encoder += 2 * 4 * (c.encoder_embedding_dim // 2) * (c.encoder_embedding_dim * 3 // 2)
    return 2.0 * batch * (frames * (per_frame + postnet + location * characters) + characters * encoder)


def waveglow_flops(model: WaveGlow, samples: int) -> float:
    """Multiplications and additions of a pass, either way: each convolution's weight once for each group of samples."""
    groups = samples / model.config.n_group
    flops = 2.0 * groups * sum(p.numel() for name, p in model.WN.named_parameters() if p.dim() == 3 and p.shape[1] > 1)
    return flops + 2.0 * samples / HOP * model.upsample.weight.numel()


# ---- cases: each runs in a process of its own ----


def build_tacotron2(case: dict[str, Any]) -> Any:
    """Ours or the peer: modules with `infer`, of no common class."""
    torch.manual_seed(0)
    if case["implementation"] == "torchaudio":
        from torchaudio.models import Tacotron2 as Peer

        model: Any = Peer(
            n_symbol=len(SYMBOLS), decoder_max_step=case["frames"], gate_threshold=2.0, decoder_early_stopping=True
        )
    else:
        model = Tacotron2(Tacotron2Config(gate_threshold=2.0))  # never stops: every run has the same length
        model.decoder.fused = case["implementation"] != "step by step"
        model.decoder.int8 = case.get("precision") == INT8
    return model.to(case["device"])


def random_text(batch: int, characters: int, device: str) -> tuple[Tensor, Tensor]:
    text = torch.randint(1, len(SYMBOLS), (batch, characters), device=device)
    return text, torch.full((batch,), characters, device=device)


def measure_tacotron2_training(case: dict[str, Any]) -> dict[str, Any]:
    """Forward and backward pass and Adam, on a batch without padding."""
    model, device, frames = build_tacotron2(case).train(), case["device"], case["frames"]
    text, text_lengths = random_text(case["batch"], case["characters"], device)
    mel = torch.randn(case["batch"], 80, frames, device=device)
    mel_lengths = torch.full((case["batch"],), frames, device=device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def step() -> None:
        with autocast(torch.device(device), case["precision"]):
            output = model(text, text_lengths, mel, mel_lengths)
            if case["implementation"] == "torchaudio":
                loss = sum((part - mel).square().mean() for part in output[:2]) + output[2].mean()
            else:
                loss = tacotron2_loss(output, mel, mel_lengths)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    flops = 3 * tacotron2_flops(Tacotron2Config(), case["batch"], case["characters"], frames)
    return measured(step, case) | {"items": case["batch"] * frames, "flops": flops}


def measure_waveglow_training(case: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    device, samples = case["device"], case["samples"]
    model = WaveGlow(WaveGlowConfig(n_channels=case["channels"])).to(device)
    model.checkpoint_activations = case.get("implementation") == "checkpointed"
    mel = torch.randn(case["batch"], 80, -(-samples // HOP), device=device)
    audio = 0.1 * torch.randn(case["batch"], samples, device=device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def step() -> None:
        with autocast(torch.device(device), case["precision"]):
            loss = waveglow_loss(model(mel, audio))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    flops = 3 * waveglow_flops(model, case["batch"] * samples)
    return measured(step, case) | {"items": case["batch"] * samples, "flops": flops}


def measure_free_running(case: dict[str, Any]) -> dict[str, Any]:
    """Tacotron 2 alone, `frames` of it; the limit is reading the decoder's weights once a frame."""
    model, device = build_tacotron2(case).eval(), case["device"]
    text, lengths = random_text(case["batch"], case["characters"], device)
    precision = "fp32" if case["precision"] == INT8 else case["precision"]

    def speak() -> None:
        with torch.no_grad(), autocast(torch.device(device), precision):
            if case["implementation"] == "torchaudio":
                model.infer(text, lengths)
            else:
                model.infer(text, lengths, case["frames"])

    bytes_of = {"fp32": 4, "bf16": 2, "fp16": 2, INT8: 1}[case["precision"]]
    weights = sum(p.numel() for name, p in model.named_parameters() if name.startswith("decoder."))
    return measured(speak, case) | {"items": case["frames"], "bytes": case["frames"] * weights * bytes_of}


def measure_waveglow(case: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    device = case["device"]
    model = WaveGlow(WaveGlowConfig(n_channels=case["channels"])).to(device).eval()
    mel = torch.randn(case["batch"], 80, case["frames"], device=device)

    def speak() -> None:
        with autocast(torch.device(device), case["precision"]):
            model.infer(mel)

    samples = case["batch"] * case["frames"] * HOP
    return measured(speak, case) | {"items": samples, "flops": waveglow_flops(model, samples)}


def measure_synthesis(case: dict[str, Any]) -> dict[str, Any]:
    """From characters to audio, with a Tacotron 2 that speaks 6 frames a character and does not stop by itself."""
    torch.manual_seed(0)
    device = case["device"]
    tacotron2 = Tacotron2(Tacotron2Config(gate_threshold=2.0)).to(device).eval()
    waveglow = WaveGlow(WaveGlowConfig(n_channels=256)).to(device).eval()
    voice = Synthesizer(tacotron2, waveglow, AudioConfig(), precision=case["precision"])
    words = "the quick brown fox jumps over a lazy dog and so on "
    text = (words * (1 + case["characters"] // len(words)))[: case["characters"] - 1] + "."
    frames = 6 * case["characters"]

    def speak() -> None:
        for _ in voice.batches([text] * case["batch"], case["batch"], max_decoder_steps=frames):
            pass

    return measured(speak, case) | {"mels": case["batch"] * frames, "items": case["batch"] * frames * HOP}


def measure_mels(case: dict[str, Any]) -> dict[str, Any]:
    """Reading clips of 10 seconds and computing their mels, one after the other, on one core."""
    import tempfile

    import numpy as np
    import soundfile

    from common.audio import LogMel, load_audio

    torch.set_num_threads(1)
    audio = AudioConfig()
    log_mel = LogMel(audio)
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / f"{i}.wav" for i in range(10)]
        for i, path in enumerate(paths):
            soundfile.write(path, 0.1 * np.random.default_rng(i).standard_normal(10 * RATE), RATE)

        def compute() -> None:
            for path in paths:
                log_mel(torch.from_numpy(load_audio(path, audio)).unsqueeze(0))

        return measured(compute, case) | {"items": 100 * RATE}


def measured(function: Callable[[], object], case: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each run, and by how much memory grew at its peak, in MB."""
    device = case["device"]
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        before = pages * resource.getpagesize()
    times = seconds_of(function, case["runs"], device)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 1024 * _max_rss()
    return {"seconds": times, "megabytes": (peak - before) / 1e6}


def _max_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux


MEASURES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "peaks": measure_peaks,
    "tacotron2_training": measure_tacotron2_training,
    "waveglow_training": measure_waveglow_training,
    "free_running": measure_free_running,
    "waveglow": measure_waveglow,
    "synthesis": measure_synthesis,
    "mels": measure_mels,
}

# ---- sections: what is compared with what ----


def implementations() -> list[str]:
    """The one that all are compared with, first."""
    try:
        import torchaudio.models  # noqa: F401
    except (ImportError, OSError):
        return ["step by step", "ours"]
    return ["torchaudio", "step by step", "ours"]


def sections(device: str) -> dict[str, list[dict[str, Any]]]:
    """The cases of each section; those of one `group` are compared with its first."""
    batches = (8, 32) if device == "cpu" else (32, 128)
    training = [
        {"kind": "tacotron2_training", "group": f"Tacotron 2, batch {batch}", "implementation": name, "batch": batch,
         "characters": 100, "frames": 500}
        for batch in batches for name in implementations()
    ]  # fmt: skip
    training += [
        {"kind": "waveglow_training", "group": f"WaveGlow {channels}, batch 1", "batch": 1, "channels": channels,
         "samples": 8000} for channels in (256, 512)
    ]  # fmt: skip
    speaking = [{"implementation": name} for name in implementations()]
    speaking += [{"implementation": "ours", "precision": precision} for precision in ("bf16", INT8)]
    return {
        "training": training,
        "free_running": [
            {"kind": "free_running", "group": "batch 1, a frame", "batch": 1, "characters": 100, "frames": 400} | case
            for case in speaking if device == "cpu" or case.get("precision") != INT8
        ],
        "waveglow": [
            {"kind": "waveglow", "group": "256 channels", "batch": 1, "channels": 256, "frames": 200,
             "precision": precision} for precision in ("fp32", "bf16")
        ],
        "synthesis": [
            {"kind": "synthesis", "group": f"batch {batch}", "batch": batch, "characters": characters}
            for batch in (1, 4) for characters in (64, 128, 256)
        ],
        "growth": [
            {"kind": "tacotron2_training", "implementation": "ours", "group": name, "batch": 4, "characters": 50,
             "frames": 100} | {name: factor * size}
            for name, size in (("characters", 50), ("frames", 100), ("batch", 4)) for factor in (1, 2, 4)
        ],
        "mels": [{"kind": "mels", "group": "one core, reading included"}],
    }  # fmt: skip


# ---- running and printing ----


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Measure in a new process."""
    result = subprocess.run(
        [sys.executable, __file__, "--case", json.dumps(case)],
        capture_output=True,
        text=True,
    )
    if result.returncode:
        ended = f"ended with status {result.returncode}; often there is not enough memory"
        raise UserError(f"{case}: {(result.stderr.strip().splitlines() or [ended])[-1]}")
    return json.loads(result.stdout.splitlines()[-1])


def figures(case: dict[str, Any], result: dict[str, Any], peaks: dict[str, Any]) -> dict[str, Any]:
    """What is worth reading of a result."""
    times = sorted(result["seconds"])
    mean = statistics.mean(times)
    values = {
        "seconds": mean,
        "seconds_std": statistics.pstdev(times),
        **{f"seconds_{p}": times[min(len(times) - 1, len(times) * p // 100)] for p in PERCENTILES},
        "items_per_sec": result["items"] / mean,
        "peak_growth_mb": result["megabytes"],
    }
    if "flops" in result:
        values["share_of_gemm_peak"] = result["flops"] / mean / 1e9 / peaks["gflops"]
    if "bytes" in result:
        values["share_of_bandwidth"] = result["bytes"] / mean / 1e9 / peaks["gigabytes"]
    if "mels" in result:
        values |= {"mels": result["mels"], "audio_seconds": result["items"] / RATE}
    if case["kind"] in ("synthesis", "waveglow", "mels"):
        values["times_real_time"] = result["items"] / RATE / mean
    return values


def table(rows: list[dict[str, Any]]) -> str:
    """One line a case, with the speed and memory as multiples of the first of its group."""
    lines = []
    first: dict[str, Any] = {}
    for row in rows:
        if row["section"] != first.get("section"):
            lines.append(f"\n{row['section']}")
        if (row["section"], row["group"]) != (first.get("section"), first.get("group")):
            first = row
            lines.append(f"  {row['group']}")
        changing = {k: row[k] for k in ("implementation", "precision", "characters", "frames", "batch") if k in row}
        label = " ".join(f"{k[0]}{v}" if isinstance(v, int) else str(v) for k, v in changing.items())
        line = f"    {label:<36}{row['seconds']:9.3f} s {row['items_per_sec']:12,.0f} items/s"
        line += f" {first['seconds'] / row['seconds']:6.2f} x  {row['peak_growth_mb']:7,.0f} MB"
        line += f" {row['peak_growth_mb'] / max(first['peak_growth_mb'], 1):5.2f} x"
        for key in ("share_of_gemm_peak", "share_of_bandwidth"):
            line += f"  {row[key]:5.1%} of {key.removeprefix('share_of_')}" if key in row else ""
        line += f"  {row['times_real_time']:,.1f} x real time" if "times_real_time" in row else ""
        if row["section"] == "synthesis":
            line += "".join(f"  {p} %: {row[f'seconds_{p}']:.2f}" for p in PERCENTILES)
        lines.append(line)
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", nargs="*", help="training, free_running, waveglow, synthesis, growth, mels; all")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each case, after one to warm up")
    parser.add_argument("--precision", default="fp32", help="of the cases that do not name one")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    return parser


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if options.case:
        set_tf32(True)
        print(json.dumps(MEASURES[options.case["kind"]](options.case)))
        return
    known = sections(options.device)
    if options.runs < 1:
        raise UserError(f"--runs {options.runs}: at least 1")
    for name in options.section:
        if name not in known:
            raise UserError(f"section {name!r} is unknown; choose from: {', '.join(known)}")
    defaults = {"device": options.device, "runs": options.runs, "precision": options.precision}
    peaks = run_case({"kind": "peaks", **defaults})
    print(f"{options.device}: GEMM peak {peaks['gflops']:,.0f} GFLOP/s, memory {peaks['gigabytes']:,.1f} GB/s")
    rows = []
    for name in options.section or known:
        for case in known[name]:
            case = defaults | case
            rows.append({"section": name, **case, **figures(case, run_case(case), peaks)})
            print(f"  {name}: {len(rows)} done", end="\r", file=sys.stderr, flush=True)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps({"peaks": peaks, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        fail(str(error))
