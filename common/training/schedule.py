"""The learning rate of each step, and the length of a run: pure functions."""

from __future__ import annotations

from common.config import TrainerConfig
from common.data.dataset import RunData


def learning_rate(config: TrainerConfig, epoch: int, step: int) -> float:
    """`learning_rate` times the factor of the last of `anneal_epochs` that `epoch` has reached, or of `anneal_steps`
    that `step` has; both are counted from 0."""
    reached = [epoch >= start for start in config.anneal_epochs] or [step >= start for start in config.anneal_steps]
    factor = 1.0
    for is_reached, next_factor in zip(reached, config.anneal_factors, strict=True):
        if is_reached:
            factor = next_factor
    return config.learning_rate * factor


def total_steps(config: TrainerConfig, data: RunData) -> int | None:
    """About how many steps a run takes, since epochs differ a little; None if `max_minutes` limits it."""
    if config.max_minutes is not None:
        return None
    batches = len(data.plan.batches(0, data.batch_size, []))
    total = config.epochs * -(-batches // config.accumulation_steps)
    return min(total, config.max_steps or total)
