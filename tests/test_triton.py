"""The Triton kernels, chunks and CUDA graphs compute what plain PyTorch does.

Without a GPU the kernels run in Triton's interpreter, and one test compiles them for GPUs. With a GPU they run on it.
"""

import dataclasses
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from common.device import now
from common.ops import graphs
from common.ops.precision import set_tf32
from tacotron2 import free_running, step_torch, teacher_forcing
from tacotron2.model import Tacotron2
from tacotron2.step_torch import Attended, AttendedGradients, AttentionSums
from tests.helpers.tacotron2 import TINY, model_of, outputs_and_gradients, ragged_batch
from waveglow import gate

kernels = pytest.importorskip("tacotron2.step_triton", exc_type=ImportError)
gate_kernels = pytest.importorskip("waveglow.gate_triton", exc_type=ImportError)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROOT = Path(__file__).resolve().parent.parent
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
# A GPU's exponential and division are approximate; the errors that the tests look for are larger.
ROUNDING = 2e-6 if DEVICE == "cpu" else 2e-5


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, device=DEVICE)


@pytest.fixture(autouse=True)
def without_tf32() -> None:
    """Products and convolutions of float32 have full precision; by default PyTorch's convolutions use TF32."""
    set_tf32(False)


@pytest.fixture
def by_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the decoder use the kernels, in chunks."""
    for module in (teacher_forcing, free_running):
        monkeypatch.setattr(module, "ops_for", lambda *_: kernels)
    monkeypatch.setitem(teacher_forcing.CHUNK, "cpu", 8)
    monkeypatch.setitem(teacher_forcing.CLIPS, "cpu", 4)


@pytest.mark.parametrize("with_dropout", [True, False])
def test_lstm_cell(with_dropout: bool) -> None:
    """Forward and backward with strided rows and a size that is not a power of two."""
    torch.manual_seed(0)
    batch, size = 3, 300
    gates, recurrent, before = random(batch, 4 * size), random(batch, 4 * size), random(batch, size)
    kept = torch.rand(batch, size, device=DEVICE) > 0.3 if with_dropout else None
    d_hidden, d_recurrent, d_more, d_cell = (random(batch, size + 7)[:, :size] for _ in range(4))
    results = []
    for ops in (step_torch, kernels):
        activations, after, wide = gates.clone(), torch.empty_like(before), random(batch, size + 5)
        ops.lstm_cell(activations, recurrent, before, after, wide[:, :size], kept, 1.4)
        d_gates, d_before = activations.clone(), d_cell.clone()
        ops.lstm_cell_backward(d_gates, before, after, d_hidden, d_recurrent, d_more, d_before, kept, 1.4)
        alone, d_alone = gates.clone(), d_cell.clone()
        ops.lstm_cell(alone, None, before, before.clone(), torch.empty_like(before), None, 1.0)
        ops.lstm_cell_backward(alone, before, after, d_hidden, d_recurrent, None, d_alone, kept, 1.4)
        results.append((activations, after, wide[:, :size], d_gates, d_before, alone, d_alone))
    for fast, plain in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(fast, plain, atol=ROUNDING, rtol=1e-5)


FULL_SIZE = [(8, 192, 128, 31, 512)] if DEVICE == "cuda" else []  # too slow in the interpreter


@pytest.mark.parametrize("sizes", [(2, 70, 128, 31, 96), (3, 5, 24, 3, 20), *FULL_SIZE])
def test_attention_step(sizes: tuple[int, ...]) -> None:
    """More and less than one block of characters; two backward steps, so that one passes its carry to the other."""
    torch.manual_seed(0)
    batch, length, dim, taps, memory_dim = sizes
    kernel, keys, v = random(dim, 2, taps), random(batch, length, dim), random(dim)
    memory, padding = random(batch, length, memory_dim), torch.zeros(batch, length, dtype=torch.bool, device=DEVICE)
    padding[0, length - 2 :] = True
    query, d_weights, d_state, d_recurrent = random(2, batch, dim), *(random(2, batch, n) for n in (length, 9, 9))
    d_state, d_recurrent = random(2, batch, memory_dim), random(2, batch, memory_dim)
    results = []
    for ops in (step_torch, kernels):
        weights, totals = torch.zeros(2, 3, batch, length, device=DEVICE)
        context = torch.empty(2, batch, memory_dim, device=DEVICE)
        step = ops.AttentionStep(kernel, keys, v, memory, padding)
        for t in range(2):
            step.forward(query[t], weights[t], totals[t], weights[t + 1], totals[t + 1], context[t])
        sums = AttentionSums(*(torch.zeros_like(x) for x in (keys, kernel, v)))
        back = ops.AttentionStepBackward(kernel, keys, v, memory, ops.initial_carry(keys, taps), sums, 2)
        d_context, d_query = torch.empty_like(context), torch.empty_like(query)
        for t in (1, 0):
            forward = Attended(query[t], weights[t], totals[t], weights[t + 1])
            gradients = AttendedGradients(d_weights[t], d_state[t], d_recurrent[t])
            back.backward(t, forward, gradients, d_context[t], d_query[t])
        back.finish(weights[:-1], totals[:-1])
        results.append((weights, totals, context, d_context, d_query, *sums))
    for fast, plain in zip(results[1], results[0], strict=True):
        largest = 1.0 if DEVICE == "cpu" else max(1.0, float(plain.abs().max()))  # sums of thousands of terms
        torch.testing.assert_close(fast, plain, atol=10 * ROUNDING * largest, rtol=1e-4)


def test_waveglow_gate() -> None:
    torch.manual_seed(0)
    rows, size = 7, 700
    x, condition, d_out = random(rows, 2 * size), random(rows, 4 * size)[:, size : 3 * size], random(rows, size)
    results = []
    for ops in (gate, gate_kernels):
        activations, out = x.clone(), torch.empty_like(d_out)
        ops.activate(activations, condition, out)
        gradient = activations.clone()
        ops.activate_backward(gradient, d_out)
        results.append((activations, out, gradient))
    for fast, plain in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(fast, plain, atol=ROUNDING, rtol=1e-5)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding to multiples of 4 steps and 8 clips changes nothing, in float64."""
    model = model_of(TINY).double().to(DEVICE).train()
    batch = tuple(x.double() if x.is_floating_point() else x for x in (y.to(DEVICE) for y in ragged_batch()))
    for sizes in (teacher_forcing.CHUNK, teacher_forcing.CLIPS):
        monkeypatch.delitem(sizes, DEVICE, raising=False)
    whole, gradients = outputs_and_gradients(model, batch, True)
    monkeypatch.setitem(teacher_forcing.CHUNK, DEVICE, 4)
    monkeypatch.setitem(teacher_forcing.CLIPS, DEVICE, 8)
    chunked, chunked_gradients = outputs_and_gradients(model, batch, True)
    for name, value in whole.items():
        torch.testing.assert_close(chunked[name], value, atol=1e-12, rtol=1e-12, msg=name)
    for name, gradient in gradients.items():
        torch.testing.assert_close(chunked_gradients[name], gradient, atol=1e-10, rtol=1e-10, msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("by_kernels")
def test_training_by_kernels() -> None:
    """Outputs and gradients of the whole model equal those of the step-by-step decoder, dropout included."""
    model = model_of(TINY).to(DEVICE).train()
    batch = tuple(x.to(DEVICE) for x in ragged_batch())
    plain, gradients = outputs_and_gradients(model, batch, False)
    for _ in range(3):  # eager, captured, replayed
        fast, fast_gradients = outputs_and_gradients(model, batch, True)
        for name, value in plain.items():
            torch.testing.assert_close(fast[name], value, atol=2e-4, rtol=1e-4, msg=name)
        for name, gradient in gradients.items():
            assert gradient is not None
            largest = float(gradient.abs().max())
            torch.testing.assert_close(fast_gradients[name], gradient, atol=1e-3 * largest + 1e-5, rtol=0, msg=name)


@pytest.mark.usefixtures("by_kernels")
@pytest.mark.slow
def test_free_running_by_kernels() -> None:
    model = model_of(dataclasses.replace(TINY, prenet_dropout=0.0, gate_threshold=2.0)).to(DEVICE).eval()
    text, text_lengths, *_ = (x.to(DEVICE) for x in ragged_batch())
    model.decoder.fused = False
    plain = model.infer(text, text_lengths, 20)
    model.decoder.fused = True
    for _ in range(3):
        fast = model.infer(text, text_lengths, 20)
        torch.testing.assert_close(fast.mel_postnet, plain.mel_postnet, atol=2e-4, rtol=0)
        torch.testing.assert_close(fast.alignment, plain.alignment, atol=1e-5, rtol=0)


@needs_gpu
def test_a_model_that_is_freed_takes_its_graphs_with_it() -> None:
    """The next model captures its own, also when no graph is left."""
    graphs._DEVICES.clear()
    for _ in range(2):
        owner = torch.nn.Linear(1, 1, bias=False).cuda()
        for _ in range(3):
            to = torch.zeros(4, device="cuda")
            graphs.graphed(scaled, Sum(to), Sum(torch.ones(4, device="cuda")), owner)
            torch.testing.assert_close(to, owner.weight[0].expand(4).detach())
        assert graphs.num_graphs() == 1
        del owner
        gc.collect()
        assert graphs.num_graphs() == 0


@needs_gpu
def test_another_thread_may_read_the_clock_during_a_capture() -> None:
    """Threads synthesize at once: one measures its speed while another captures a graph."""
    done, errors = threading.Event(), []

    def measure() -> None:
        try:
            while not done.is_set():
                (torch.ones(8, device="cuda") + 1).sum()
                now(torch.device("cuda"))
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        for size in range(1, 60):  # each size is another graph
            for _ in range(2):
                to = torch.zeros(size, device="cuda")
                graphs.graphed(many, Sum(to), Sum(torch.ones(size, device="cuda")))
                assert to.tolist() == [100.0] * size
    finally:
        done.set()
        thread.join()
    assert errors == []


class Sum(NamedTuple):
    to: Tensor


def scaled(owner: torch.nn.Linear, written: Sum, given: Sum) -> None:
    written.to.add_(given.to * owner.weight[0].detach())


def many(written: Sum, given: Sum) -> None:
    """As long as the capture of a decoder's steps."""
    for _ in range(100):
        written.to.add_(given.to)


class Summands(NamedTuple):
    x: Tensor
    flags: Tensor


@needs_gpu
def test_graphs_of_different_sizes_share_their_memory() -> None:
    """Small, large and small again, in and out of inference mode; the owner's tensor is not copied."""
    owner = torch.nn.Linear(1, 1, bias=False).cuda()

    def add(owner: torch.nn.Linear, written: Sum, given: Summands, factor: float) -> None:
        written.to.add_(factor * given.x * owner.weight[0] * given.flags)

    for size in (5, 700, 5):
        for mode in (torch.inference_mode, torch.no_grad):
            for _ in range(3):
                with mode():
                    to, x, flags = random(size, 3), random(size, 3)[:, ::1], random(size, 1) > 0
                    expected = to + 2 * x * owner.weight[0] * flags
                    graphs.graphed(add, Sum(to), Summands(x, flags), owner, factor=2.0)
                    torch.testing.assert_close(to, expected)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gpu_and_cpu_agree(dtype: torch.dtype) -> None:
    model = model_of(TINY).eval()
    batch = ragged_batch()
    expected = model(*batch)
    gpu: Tacotron2 = model.to("cuda")
    with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
        found = gpu(*(x.cuda() for x in batch))
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(found.mel_postnet.float().cpu(), expected.mel_postnet, atol=tolerance, rtol=0)


COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tacotron2 import step_triton as kernels
from waveglow import gate_triton as gate_kernels

GATES = ("_activate", "_activate_backward")
types = {CELLS}
for name, pointers, floats, constants in types:
    kernel = getattr(gate_kernels if name in GATES else kernels, name)
    for element in ("fp32", "bf16", "fp16"):
        signature = {{}}
        for argument in kernel.arg_names:
            if argument in constants:
                signature[argument] = "constexpr"
            elif argument in pointers:
                signature[argument] = "*" + (pointers[argument] or element)
            else:
                signature[argument] = "fp32" if argument in floats else "i32"
        for capability in (80, 90):
            options = kernels.FEATURES_BACKWARD if name == "_features_backward" else {{}}
            target = GPUTarget("cuda", capability, 32)
            compiled = triton.compile(ASTSource(kernel, signature, constants), target=target, options=options)
            assert compiled.asm["cubin"]
            assert compiled.metadata.shared <= 99 * 1024, "more shared memory than smaller GPUs have"
        print(name, element)
"""


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu() -> None:
    """Compile them for two GPU generations at the full model's sizes, in three precisions."""
    own, always, flag = None, "fp32", "i1"
    lstm = dict.fromkeys(("gates", "recurrent", "before", "after", "hidden"), own) | {"kept": flag}
    back = dict.fromkeys(("gates", "before", "after", "d_hidden", "d_recurrent", "d_query_hidden", "d_cell"), own)
    step = dict.fromkeys(("query", "kernel", "keys", "v"), own)
    step |= dict.fromkeys(("last", "total", "weights", "d_weight"), always)
    sizes = {"taps": 31, "width": 64, "dim_block": 128, "rows_block": 32, "precision": "tf32"}
    cases = [
        ("_lstm_cell", lstm, ["scale"], {"has_recurrent": True, "has_kept": True, "block": 256}),
        ("_lstm_cell_backward", back | {"kept": flag}, ["scale"],
         {"has_query": True, "has_kept": True, "block": 256}),
        ("_energies", step | {"out": always, "padding": flag}, [], sizes),
        ("_softmax_and_context",
         {"energies": always, "total": always, "memory": own, "weights": always, "new_total": always, "context": own},
         [], {"length_block": 256, "rows_block": 32, "memory_block": 64}),
        ("_weights_backward",
         dict.fromkeys(("d_weight", "d_total", "d_outside", "d_patches"), always)
         | dict.fromkeys(("d_context", "d_state", "d_recurrent", "memory"), own),
         [], {"taps": 31, "rows_block": 32, "memory_block": 64}),
        ("_features_backward",
         step | {"d_query": own, "d_features": own, "d_patches": always, "d_v": always}, [], sizes),
        ("_activate", dict.fromkeys(("x", "condition", "out"), own), [], {"block": 512}),
        ("_activate_backward", dict.fromkeys(("activations", "d_out"), own), [], {"block": 512}),
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", COMPILE.format(CELLS=repr(cases))], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert len(run.stdout.splitlines()) == 3 * len(cases)
