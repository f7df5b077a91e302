"""Environment of the test processes, and fixtures: a tiny corpus and tiny runs on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Two test processes share two cores, so threads would only wait for each other. Libraries read this when imported.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "scripts")]

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined, which then runs on the CPU

from tests.helpers.commands import run_here
from tests.helpers.corpus import prepare, write_corpus
from tests.helpers.runs import REFERENCE_WAVEGLOW, TINY_TACOTRON2, train_command
from tests.helpers.server import Running, running

WHOLLY_SLOW = "\npytestmark = pytest.mark.slow"


def is_wholly_slow(path: Path) -> bool:
    return path.suffix == ".py" and WHOLLY_SLOW in path.read_text(encoding="utf-8")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files that are slow as a whole, whose imports alone take seconds."""
    return (config.option.markexpr == "not slow" and is_wholly_slow(collection_path)) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that are slow as a whole come first: no process should begin the longest file when the others are done."""
    first = {path for path in {item.path for item in items} if is_wholly_slow(path)}
    items.sort(key=lambda item: item.path not in first)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus of 8 clips, which tests must not change."""
    return prepare(write_corpus(tmp_path_factory.mktemp("corpus") / "tiny"))


@pytest.fixture(scope="session")
def tacotron2_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a tiny Tacotron 2 after 4 steps."""
    run_dir = tmp_path_factory.mktemp("runs") / "tacotron2"
    sentences = "data.sentences=[One.,Two words.]"
    run_here(*train_command(corpus, run_dir, TINY_TACOTRON2, sentences, "trainer.max_steps=4"))
    return run_dir


@pytest.fixture(scope="session")
def waveglow_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a tiny WaveGlow after 4 steps."""
    run_dir = tmp_path_factory.mktemp("runs") / "waveglow"
    run_here(*train_command(corpus, run_dir, REFERENCE_WAVEGLOW, "trainer.max_steps=4"))
    return run_dir


@pytest.fixture(scope="session")
def speech_server() -> Iterator[Running]:
    """A server with the bundled voice and without keys."""
    with running() as server:
        yield server
