"""The GPU report as Markdown: a pure function of its JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# What others published. NVIDIA's figures are those of DeepLearningExamples (PyTorch/SpeechSynthesis/Tacotron2).
PUBLISHED = {
    "tacotron2": "31,499 frames/s (NVIDIA, one A100, TF32), 280,476 (eight)",
    "tacotron2_fp16": "26,484 frames/s (NVIDIA, one A100, mixed precision)",
    "waveglow_fp16": "149,479 samples/s (NVIDIA, one A100, mixed precision)",
    "waveglow_bf16": "149,479 samples/s (NVIDIA, one A100, mixed precision)",
    "waveglow_fp32": "67,581 samples/s (NVIDIA, one A100, TF32)",
    "chain_1": "0.80 s for 7.0 s of audio (NVIDIA, one A100, FP16); 0.40 s for 6.7 s (TensorRT, one T4)",
}
NOTE = """\
NVIDIA's training figures: Tacotron 2 with batches of 128 clips of LJSpeech; WaveGlow with 512 channels, segments of
8,000 samples, batches of 10 (mixed precision) or 4 (TF32). Here: random batches without padding of the same sizes,
without a data loader. NVIDIA's latency: batch 1, 128 characters, WaveGlow with 256 channels. Here: the same sizes,
random weights, from text to samples in the host's memory. fp32 on a GPU means TF32. The recipes train with the same
weights and batches as on a CPU, without dropout, which no two devices draw alike; twice the difference that bf16
makes on a CPU is allowed.
"""


def markdown(report: dict[str, Any]) -> str:
    """The report: the machine, then a table with a line for each part."""
    entries = {entry["name"]: entry for entry in report["parts"]}
    lines = ["# GPU report", ""]
    if report["size"] == "cpu":
        lines += ["**CPU-size version.** It checks that the parts run; its figures say nothing about a GPU.", ""]
    if (values := entries.get("machine", {}).get("values")) is not None:
        lines += [*_machine(values), ""]
    published = PUBLISHED if report["size"] != "cpu" else {}
    lines += ["| part | here | published | details |", "|---|---|---|---|"]
    for name, entry in entries.items():
        if entry["status"] == "done":
            here, details = DESCRIPTIONS[entry["kind"]](entry, entry["values"])
        else:
            here = f"**{entry['status']}**: {_cell(entry['error'])}"
            details = f"log: {entry['log']}" if "log" in entry else ""
        lines.append(f"| {name} | {here} | {published.get(name, '')} | {details} |")
    lines += ["", NOTE, f"It took {report['seconds']:.0f} s of {60 * report['minutes']:.0f} s.", ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")[:300]


def _machine(values: dict[str, Any]) -> list[str]:
    lines = []
    if "device" in values:
        lines.append(
            f"- {values['device']}, {values['memory_gb']:.0f} GB, compute capability {values['compute_capability']}, "
            f"driver {values['driver']}, cuDNN {values['cudnn']}; one of {values['gpus']} GPUs"
        )
    lines.append(f"- {values['cpu']}; Python {values['python']}")
    lines.append(f"- torch {values['torch']}, CUDA {values['cuda']}, Triton {values['triton']}")
    peaks = ", ".join(f"{name} {value / 1000:,.1f}" for name, value in values["gflops"].items())
    lines.append(f"- GEMM peak in TFLOP/s: {peaks}; memory bandwidth {values['gigabytes']:,.0f} GB/s")
    for key, what, otherwise in (
        ("kernels", "Triton kernels", "plain PyTorch computes instead, slower"),
        ("cuda_graphs", "CUDA graphs", "they do not work here"),
    ):
        used = "work" if values[f"{key}_work"] else f"off: {otherwise}"
        note = f" ({values[f'{key}_note']})" if values[f"{key}_note"] else ""
        lines.append(f"- {what}: {used}{note}")
    return lines


def _used(values: dict[str, Any]) -> str:
    """What of Triton kernels and CUDA graphs the process has really used."""
    names = [name.split(".")[0] for name in values["kernels"]]
    kernels = f"Triton kernels of {' and '.join(names)}" if names else "plain PyTorch"
    return f"{kernels}, {values['graphs']} CUDA graphs"


def _describe_machine(entry: dict[str, Any], values: dict[str, Any]) -> tuple[str, str]:
    return values.get("device", values["cpu"]), "above"


def _describe_tests(entry: dict[str, Any], values: dict[str, Any]) -> tuple[str, str]:
    counts = f"{values['passed']} passed, {values['failed']} failed, {values['skipped']} skipped"
    return (f"**{counts}**" if values["failed"] else counts), _cell("; ".join(values["failures"]))


def _describe_training(entry: dict[str, Any], values: dict[str, Any]) -> tuple[str, str]:
    is_tacotron2 = entry["kind"] == "tacotron2_training"
    size = f"{entry['frames']} frames" if is_tacotron2 else f"{entry['samples']} samples"
    peak = f", {values['share_of_gemm_peak']:.0%} of the GEMM peak" if "share_of_gemm_peak" in values else ""
    details = (
        f"{entry['implementation']}, {entry['precision']}, {entry['batch']} x {size}: {values['seconds']:.3f} s per "
        f"step{peak}, {values['peak_mb']:,.0f} MB at most; {_used(values)}"
    )
    return f"{values['items_per_sec']:,.0f} {'frames' if is_tacotron2 else 'samples'}/s", details


def _describe_synthesis(entry: dict[str, Any], values: dict[str, Any]) -> tuple[str, str]:
    details = (
        f"{entry['precision']}, batch {entry['batch']}, {entry['characters']} characters: "
        f"{values['times_real_time']:,.1f} x real time, {values['items_per_sec']:,.0f} samples/s, deviation "
        f"{values['seconds_std']:.3f} s, {values['peak_mb']:,.0f} MB at most; {_used(values)}"
    )
    return f"{values['seconds']:.3f} s for {values['audio_seconds']:.1f} s of audio", details


def _describe_first_audio(entry: dict[str, Any], values: dict[str, Any]) -> tuple[str, str]:
    stopped = "" if values["stopped_by_itself"] else "; **the decoder did not stop by itself**"
    details = (
        f"bundled voice, {values['audio_seconds']:.1f} s of audio. From the start of the process: "
        f"{values['seconds_from_start']:.1f} s, of which imports and loading {values['seconds_of_loading']:.1f} s and "
        f"the first sentence {values['seconds_of_first_sentence']:.1f} s; {_used(values)}{stopped}"
    )
    return f"{values['seconds_of_later_sentence']:.3f} s once it runs", details


def _describe_recipe(entry: dict[str, Any], values: dict[str, Any]) -> tuple[str, str]:
    verdict = "as on a CPU" if values["agrees"] else "**not as on a CPU**"
    details = (
        f"{entry['model']}, {values['steps']} steps: loss {values['first_loss']:.3f} to {values['last_loss']:.3f} (CPU "
        f"{values['cpu_first_loss']:.3f} to {values['cpu_last_loss']:.3f}); means of 10 steps differ by "
        f"{values['largest_difference']:.3f} at most, allowed {values['tolerance']:g}; "
        f"{values['items_per_sec']:,.0f} items/s"
    )
    return verdict, details


DESCRIPTIONS: dict[str, Callable[[dict[str, Any], dict[str, Any]], tuple[str, str]]] = {
    "machine": _describe_machine,
    "tests": _describe_tests,
    "tacotron2_training": _describe_training,
    "waveglow_training": _describe_training,
    "synthesis": _describe_synthesis,
    "first_audio": _describe_first_audio,
    "recipe": _describe_recipe,
}
