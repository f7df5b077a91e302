"""Tiny training runs, and access to their output."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from common.checkpoint import files
from common.checkpoint.checkpoint import Checkpoint
from common.config import AudioConfig, TrainConfig
from common.distributed.heartbeat import Heartbeat
from common.distributed.ranks import Ranks
from common.schema import from_dict
from common.training.trainer import Trainer
from tests.helpers.commands import composed
from train import build_task, build_trainer

TINY_TACOTRON2 = [
    "model=tacotron2",  # with the reference's dropout, so that runs convert to its layout
    "trainer=tacotron2_small",
    "task=tacotron2_small",
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
    "model.encoder_dim=4",  # small: the upsampling of the reference has 6.5 million parameters
    "data.segment_length=2048",
    "trainer.ema_decay=null",
]
REFERENCE_WAVEGLOW = [*TINY_WAVEGLOW, "model.encoder_dim=0"]  # converts to the reference's layout
TINY_WAVEGLOW_SMALL = [
    "model=waveglow_small",
    "model.n_channels=8",
    "model.n_layers=2",
    "model.n_flows=4",
    "model.encoder_dim=4",
    "data.segment_length=2048",
    "task.spectral_from_step=2",  # in the middle of the tests' training
]
MODELS = {"tacotron2": TINY_TACOTRON2, "waveglow": TINY_WAVEGLOW, "waveglow_small": TINY_WAVEGLOW_SMALL}
NO_SENTENCES = "data.sentences=[]"  # for all tiny runs: a third of the time of a validation


def train_command(corpus: Path, run_dir: Path, model: list[str], *overrides: str) -> list[str]:
    return [
        "train.py",
        *model,
        "data=ljspeech",
        f"data.root={corpus}",
        "data.num_workers=0",
        NO_SENTENCES,
        f"run_dir={run_dir}",
        "trainer.batch_size=2",
        "trainer.log_every_steps=1",
        "trainer.device=cpu",
        *overrides,
    ]


def make_trainer(corpus: Path, run_dir: Path, model: str, *overrides: str) -> Trainer:
    """Return a trainer for this process alone, without torchrun."""
    values = composed("train", *train_command(corpus, run_dir, MODELS[model], *overrides)[1:])
    ranks = Ranks(0, 0, 1, torch.device("cpu"))
    config = from_dict(TrainConfig, values)
    return build_trainer(build_task(config), config, ranks, Heartbeat(ranks, 10.0))


def checkpoint_of(size: int) -> Checkpoint:
    """Return a checkpoint with a single weight of `size` numbers."""
    return Checkpoint("x", {}, AudioConfig(), None, {"a": torch.zeros(size)})


def with_objective(trainer: Trainer, objective: Any) -> None:
    """Make the trainer, its step and its validation use another objective."""
    trainer.task = dataclasses.replace(trainer.task, objective=objective)
    trainer.step.objective, trainer.validation.task = objective, trainer.task


def read_log(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


def losses(run_dir: Path) -> dict[int, float]:
    """Return the training losses of the log: step -> loss."""
    return {row["step"]: row["train_loss"] for row in read_log(run_dir) if "train_loss" in row}


def state_is_finite(run_dir: Path) -> bool:
    state = files.load(files.find(run_dir)).state_dict
    return all(bool(torch.isfinite(value).all()) for value in state.values())


def assert_same_run(a: Path, b: Path) -> None:
    """Require that the newest checkpoints are equal bit for bit.

    This covers the weights, optimizer, scaler, discriminator, random state and data position.
    """
    first, second = (files.load(files.find(path)).to_dict() for path in (a, b))
    for key in ("state_dict", "average", "optimizer", "scaler", "adversary", "progress", "rng"):
        assert_equal(first[key], second[key], key)


def assert_equal(x: object, y: object, key: str) -> None:
    """Require that two nested containers of tensors and values are equal."""
    if isinstance(x, torch.Tensor):
        assert isinstance(y, torch.Tensor)
        assert torch.equal(x, y), key
    elif isinstance(x, dict):
        assert isinstance(y, dict)
        assert x.keys() == y.keys(), key
        for name in x:
            assert_equal(x[name], y[name], f"{key}.{name}")
    elif isinstance(x, list | tuple):
        assert isinstance(y, list | tuple)
        assert len(x) == len(y), key
        for i, (left, right) in enumerate(zip(x, y, strict=True)):
            assert_equal(left, right, f"{key}[{i}]")
    else:
        assert x == y, key
