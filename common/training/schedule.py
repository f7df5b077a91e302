"""The learning rate of each epoch, a pure function."""

from __future__ import annotations

from common.config import TrainerConfig


def learning_rate(config: TrainerConfig, epoch: int) -> float:
    """`learning_rate` times the factor of the last of `anneal_epochs` that `epoch`, counted from 0, has reached."""
    factor = 1.0
    for start, next_factor in zip(config.anneal_epochs, config.anneal_factors, strict=True):
        if epoch >= start:
            factor = next_factor
    return config.learning_rate * factor
