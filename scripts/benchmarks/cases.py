"""The measurements of scripts/benchmark.py: each function takes a case's settings and runs in its own process."""

from __future__ import annotations

import ctypes
import functools
import gc
import itertools
import resource
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
from common.device import now
from common.ops.graphs import num_graphs
from common.ops.packed import PackedLinear, forget_packed
from common.ops.precision import autocast
from synthesis.reader import Reader
from synthesis.synthesizer import Synthesizer
from synthesis.vocoder import INT8, Vocoder
from tacotron2.loss import tacotron2_loss
from tacotron2.model import Tacotron2, Tacotron2Config
from tacotron2.text import SYMBOLS
from waveglow.loss import waveglow_loss
from waveglow.model import WaveGlow, WaveGlowConfig

from benchmarks.peers import PEERS

HOP = AudioConfig().hop_length
RATE = AudioConfig().sample_rate

# ---- the machine ----


# Untimed calls. On a GPU the first captures graphs, the second those that became invalid because a later graph of the
# first needed more memory (common/ops/graphs.py), and the third finds the memory that the captures gave back.
WARM_UP = {"cpu": 1, "cuda": 3}


def seconds_of(function: Callable[[], object], runs: int, device: str) -> list[float]:
    """The seconds of each of `runs` calls, after untimed ones."""
    times, where, warm_up = [], torch.device(device), WARM_UP[device]
    for i in range(warm_up + runs):
        start = now(where)
        function()
        if i >= warm_up:
            times.append(now(where) - start)
    return times


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
    model.decoder.int8 = case.get("precision") == INT8
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
    precision = "fp32" if case["precision"] == INT8 else case["precision"]

    def run() -> None:
        with torch.no_grad(), autocast(torch.device(device), precision):
            model.infer(text, lengths, case["frames"])

    bytes_of = {"fp32": 4, "bf16": 2, "fp16": 2, INT8: 1}[case["precision"]]
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


def measure_synthesis(case: dict[str, Any]) -> dict[str, Any]:
    """Measure text to audio, with a Tacotron 2 that outputs `frames` frames, by default 6 for each character, and does
    not stop by itself.

    Implementations: "ours"; "plain", with the step-by-step decoder and WaveGlow's convolutions as in training, where
    each call applies weight norm; "compiled", which is plain with torch.compile for the convolutional parts;
    "offloaded", which is ours with the weights of one model on disk while the other computes.
    """
    torch.manual_seed(0)
    device, implementation = case["device"], case["implementation"]
    tacotron2 = Tacotron2(Tacotron2Config(gate_threshold=2.0)).to(device).eval()
    waveglow = WaveGlow(WaveGlowConfig(n_channels=256)).to(device).eval()
    reader = Reader("english_cleaners", SYMBOLS, limit=case["characters"])  # the text is one piece
    vocoder = Vocoder(waveglow, AudioConfig(), case["precision"])
    voice = Synthesizer(tacotron2, vocoder, reader, case["precision"])
    if implementation in ("plain", "compiled"):
        tacotron2.decoder.fused = waveglow.packed = False
    if implementation == "compiled":
        for module in (*tacotron2.encoder.convolutions, *tacotron2.postnet.convolutions, *waveglow.WN):
            module.compile(dynamic=True)
    words = "the quick brown fox jumps over a lazy dog and so on "
    text = (words * (1 + case["characters"] // len(words)))[: case["characters"] - 1] + "."
    frames = case.get("frames", 6 * case["characters"])

    def run() -> None:
        for _ in voice.batches([text] * case["batch"], case["batch"], max_decoder_steps=frames):
            pass

    with tempfile.TemporaryDirectory() as directory:
        if implementation == "offloaded":
            offload(tacotron2, Path(directory) / "tacotron2.pt")
            offload(waveglow, Path(directory) / "waveglow.pt")
        return measured(run, case) | {"mels": case["batch"] * frames, "items": case["batch"] * frames * HOP}


def offload(model: Any, path: Path) -> None:
    """Move the weights to a file. Each call of `infer` loads them and then frees them again."""
    torch.save(model.state_dict(), path)
    device, infer = next(model.parameters()).device, model.infer

    def infer_with_weights(*arguments: Any, **options: Any) -> Any:
        model.load_state_dict(torch.load(path, map_location=device, mmap=True), assign=True)
        result = infer(*arguments, **options)
        forget_packed(model)
        model.to("meta")
        return result

    model.to("meta")
    model.infer = infer_with_weights


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


def measured(function: Callable[[], object], case: dict[str, Any]) -> dict[str, Any]:
    """Run `function`, and return the seconds of each run and the peak memory in MB, in total and as growth."""
    device = case["device"]
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # returns memory that building the models has freed
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    times = seconds_of(function, case["runs"], device)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 1024 * _peak_kib()
    return {"seconds": times, "megabytes": (peak - before) / 1e6, "peak_megabytes": peak / 1e6}


def accelerated() -> dict[str, Any]:
    """What this process used of what exists only on GPUs: modules with Triton kernels, which are imported where they
    can run, and the number of CUDA graphs."""
    modules = ("tacotron2.step_triton", "waveglow.gate_triton")
    return {"kernels": [name for name in modules if name in sys.modules], "graphs": num_graphs()}


def _peak_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


MEASURES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "peaks": measure_peaks,
    "tacotron2_training": measure_tacotron2_training,
    "waveglow_training": measure_waveglow_training,
    "free_running": measure_free_running,
    "waveglow": measure_waveglow,
    "synthesis": measure_synthesis,
    "mels": measure_mels,
}
