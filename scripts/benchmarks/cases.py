"""The measurements of scripts/benchmark.py: each function takes a case's settings and runs in its own process."""

from __future__ import annotations

import functools
import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from common.audio import LogMel, load_audio
from common.config import AudioConfig
from common.ops.graphs import num_graphs
from common.ops.packed import PackedLinear
from common.ops.precision import autocast
from synthesis.vocoder import computes_in
from tacotron2.loss import tacotron2_loss
from tacotron2.model import Tacotron2, Tacotron2Config
from tacotron2.text import SYMBOLS
from waveglow.loss import waveglow_loss
from waveglow.model import WaveGlow, WaveGlowConfig

from benchmarks.engines import measure_engine
from benchmarks.measuring import measured, seconds_of
from benchmarks.peers import PEERS
from benchmarks.speech import measure_synthesis

HOP = AudioConfig().hop_length
RATE = AudioConfig().sample_rate


def measure_peaks(case: dict[str, Any]) -> dict[str, Any]:
    """Measure the GEMM peak of each precision and the bandwidth of reading 512 MiB.

    On CPUs, BLAS and oneDNN are both measured, and the faster one gives the peak.
    """
    device = case["device"]
    size, calls = (2048, 1) if device == "cpu" else (8192, 20)  # enough to fill a GPU and hide launch overhead

    def seconds(function: Callable[[], object]) -> float:
        return min(seconds_of(lambda: [function() for _ in range(calls)], 5, device)) / calls

    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if device == "cuda":
        types["fp16"] = torch.float16
    gflops = {}
    for precision, dtype in types.items():
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        packed = PackedLinear(b, size)
        fastest = min(seconds(functools.partial(torch.mm, a, b)), seconds(functools.partial(packed, a)))
        gflops[precision] = 2 * size**3 / fastest / 1e9
    big = torch.randn(2**27, device=device)
    return {"gflops": gflops, "gigabytes": 4 * big.numel() / seconds(big.sum) / 1e9}


# ---- operations ----


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
    """Multiplications and additions of a pass in either direction: it uses each weight of WN once per group of samples,
    and each weight of the upsampling once per frame."""
    groups = samples / model.config.n_group
    flops = 2.0 * groups * sum(p.numel() for name, p in model.WN.named_parameters() if p.dim() == 3 and p.shape[1] > 1)
    return flops + 2.0 * samples / HOP * model.upsample.weight.numel()


# ---- cases ----


def build_tacotron2(case: dict[str, Any]) -> Any:
    """Build our Tacotron 2 or another project's. Its gate never stops the decoder: all runs have the same length."""
    torch.manual_seed(0)
    if case["implementation"] in PEERS:
        return PEERS[case["implementation"]](case["frames"]).to(case["device"])
    model = Tacotron2(Tacotron2Config(gate_threshold=2.0))
    model.decoder.fused = case["implementation"] != "step by step"
    return model.to(case["device"])


def random_text(batch: int, characters: int, device: str) -> tuple[Tensor, Tensor]:
    text = torch.randint(1, len(SYMBOLS), (batch, characters), device=device)
    return text, torch.full((batch,), characters, device=device)


def measure_tacotron2_training(case: dict[str, Any]) -> dict[str, Any]:
    """Measure forward pass, backward pass and Adam on a batch without padding."""
    model, device, frames = build_tacotron2(case).train(), case["device"], case["frames"]
    text, text_lengths = random_text(case["batch"], case["characters"], device)
    mel = torch.randn(case["batch"], 80, frames, device=device)
    mel_lengths = torch.full((case["batch"],), frames, device=device)

    def loss() -> Tensor:
        return tacotron2_loss(model(text, text_lengths, mel, mel_lengths), mel, mel_lengths)["loss"]

    flops = 3 * tacotron2_flops(Tacotron2Config(), case["batch"], case["characters"], frames)
    return measured(training_step(model, loss, case), case) | {"items": case["batch"] * frames, "flops": flops}


def training_step(model: nn.Module, loss: Callable[[], Tensor], case: dict[str, Any]) -> Callable[[], None]:
    """One step of training: forward pass, backward pass and Adam, with loss scaling in fp16."""
    device, precision = case["device"], case["precision"]
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")

    def step() -> None:
        with autocast(torch.device(device), precision):
            value = loss()
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


def measure_waveglow_training(case: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    device, samples = case["device"], case["samples"]
    model = WaveGlow(WaveGlowConfig(n_channels=case["channels"])).to(device)
    model.checkpoint_activations = case["implementation"] == "checkpointed"
    mel = torch.randn(case["batch"], 80, -(-samples // HOP), device=device)
    audio = 0.1 * torch.randn(case["batch"], samples, device=device)
    step = training_step(model, lambda: waveglow_loss(model(mel, audio)), case)
    flops = 3 * waveglow_flops(model, case["batch"] * samples)
    return measured(step, case) | {"items": case["batch"] * samples, "flops": flops}


def measure_free_running(case: dict[str, Any]) -> dict[str, Any]:
    """Measure Tacotron 2 alone, for `frames` frames.

    Memory bandwidth bounds its speed: each frame reads all weights of the decoder once.
    """
    model, device = build_tacotron2(case).eval(), case["device"]
    text, lengths = random_text(case["batch"], case["characters"], device)
    precision, model.decoder.weight_bits = computes_in(case["precision"], torch.device(device))

    def run() -> None:
        with torch.no_grad(), autocast(torch.device(device), precision):
            model.infer(text, lengths, case["frames"])

    bytes_of = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}[case["precision"]]
    weights = sum(p.numel() for name, p in model.named_parameters() if "decoder." in name)
    return measured(run, case) | {"items": case["frames"], "bytes": case["frames"] * weights * bytes_of}


def measure_waveglow(case: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    device = case["device"]
    model = WaveGlow(WaveGlowConfig(n_channels=case["channels"])).to(device).eval()
    mel = torch.randn(case["batch"], 80, case["frames"], device=device)

    def run() -> None:
        with autocast(torch.device(device), case["precision"]):
            model.infer(mel)

    samples = case["batch"] * case["frames"] * HOP
    return measured(run, case) | {"items": samples, "flops": waveglow_flops(model, samples)}


def measure_mels(case: dict[str, Any]) -> dict[str, Any]:
    """Measure reading 10-second clips and computing their mels, one after the other on one core."""
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


def accelerated() -> dict[str, Any]:
    """What this process used of what exists only on GPUs: modules with Triton kernels, which are imported where they
    can run, and the number of CUDA graphs."""
    modules = ("tacotron2.step_triton", "waveglow.gate_triton")
    return {"kernels": [name for name in modules if name in sys.modules], "graphs": num_graphs()}


MEASURES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "peaks": measure_peaks,
    "tacotron2_training": measure_tacotron2_training,
    "waveglow_training": measure_waveglow_training,
    "free_running": measure_free_running,
    "waveglow": measure_waveglow,
    "synthesis": measure_synthesis,
    "engine": measure_engine,
    "mels": measure_mels,
}
