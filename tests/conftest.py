"""Fixtures: a tiny corpus with its mels, tiny configs, and the entry scripts as a user runs them."""

from __future__ import annotations

import functools
import lzma
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
GOLDEN = REPOSITORY / "tests" / "golden"
sys.path.insert(0, str(REPOSITORY))
torch.set_num_threads(1)  # the tests run in as many processes as there are cores
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined: it then runs on the CPU

SENTENCES = [
    "The first line.",
    "A second one, somewhat longer.",
    "Three.",
    "In 1851 it was 4 feet long.",
    "Why not?",
    "He said so himself.",
    "Nothing came of it, though.",
    "The last of them all.",
]

TINY_TACOTRON2 = [
    "model=tacotron2",  # with the reference's dropout, to whose layout these are converted
    "trainer=tacotron2_small",
    "model.symbols_embedding_dim=16",
    "model.encoder_embedding_dim=16",
    "model.attention_rnn_dim=24",
    "model.attention_dim=8",
    "model.attention_location_n_filters=4",
    "model.attention_location_kernel_size=7",
    "model.decoder_rnn_dim=24",
    "model.prenet_dim=12",
    "model.postnet_embedding_dim=16",
    "model.n_frames_per_step=3",
    "model.max_decoder_steps=400",
    "model.p_frame_dropout=0.15",
    "model.p_own_frames=0.5",
    "trainer.ema_decay=null",
]
TINY_WAVEGLOW = [
    "model=waveglow",
    "trainer=waveglow_small",
    "model.n_channels=8",
    "model.n_layers=2",
    "model.n_flows=4",
    "model.n_group=8",
    "model.n_early_every=2",
    "model.n_early_size=2",
    "data.segment_length=2048",
    "trainer.ema_decay=null",
    "trainer.spectral_weight=0.0",
]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


_UNPACKED = tempfile.TemporaryDirectory()


@functools.cache
def golden_path(name: str) -> Path:
    """A file of tests/golden, unpacked."""
    path = Path(_UNPACKED.name) / name
    path.write_bytes(lzma.decompress((GOLDEN / f"{name}.xz").read_bytes()))
    return path


def golden(name: str) -> dict[str, Any]:
    """What such a file holds: tensors and containers."""
    return torch.load(golden_path(name), weights_only=True)


def run_script(*command: object, expect: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python COMMAND` in the repository; unless `expect` is None the exit status must be that."""
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if expect is not None:
        assert result.returncode == expect, result.stdout + result.stderr
    return result


def fails_with(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    """The run failed with one message that holds `parts`, and no traceback."""
    assert result.returncode != 0
    assert "Traceback" not in result.stderr, result.stderr
    for part in parts:
        assert part in result.stderr, result.stderr


def tone(seconds: float, seed: int) -> np.ndarray:
    """A gliding tone in some noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * 22050)) / 22050
    pitch = 120 + 80 * rng.random() + 40 * t
    wave = sum(np.sin(2 * np.pi * k * pitch * t) / k for k in range(1, 9))
    return (0.1 * wave + 0.005 * rng.standard_normal(len(t))).astype(np.float32)


def write_corpus(root: Path, sentences: list[str] = SENTENCES) -> Path:
    """LJSpeech's layout with clips of 0.5 to 1.2 seconds."""
    (root / "wavs").mkdir(parents=True)
    for i in range(len(sentences)):
        soundfile.write(root / "wavs" / f"clip{i}.wav", tone(0.5 + 0.1 * i, i), 22050)
    rows = [f"clip{i}|{text}|{text}\n" for i, text in enumerate(sentences)]
    (root / "metadata.csv").write_text("".join(rows), encoding="utf-8")
    return root


def prepare(root: Path) -> Path:
    run_script("scripts/prepare_filelists.py", root)
    run_script("scripts/prepare_mels.py", f"data.root={root}", "num_processes=1")
    return root


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus of 8 clips; tests must not change it."""
    return prepare(write_corpus(tmp_path_factory.mktemp("corpus") / "tiny"))


def train_command(corpus: Path, run_dir: Path, model: list[str], *overrides: str) -> list[str]:
    return [
        "train.py",
        *model,
        "data=ljspeech",
        f"data.root={corpus}",
        "data.num_workers=0",
        f"run_dir={run_dir}",
        "trainer.batch_size=2",
        "trainer.log_every_steps=1",
        "trainer.device=cpu",
        *overrides,
    ]


@pytest.fixture(scope="session")
def tacotron2_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of a tiny Tacotron 2 after 4 steps."""
    run_dir = tmp_path_factory.mktemp("runs") / "tacotron2"
    run_script(*train_command(corpus, run_dir, TINY_TACOTRON2, "trainer.max_steps=4"))
    return run_dir


@pytest.fixture(scope="session")
def waveglow_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of a tiny WaveGlow after 4 steps."""
    run_dir = tmp_path_factory.mktemp("runs") / "waveglow"
    run_script(*train_command(corpus, run_dir, TINY_WAVEGLOW, "trainer.max_steps=4"))
    return run_dir
