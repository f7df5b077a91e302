"""The exponential moving average of a model's weights, which often gives better results than the last weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """average <- decay * average + (1 - decay) * weights, after each step.

    Without a decay it is empty and a no-op. In the first steps the decay is smaller, (1 + step) / (10 + step), so that
    the initial weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        self.decay = decay
        self.named = dict(model.named_parameters()) if decay else {}
        self.weights = {name: parameter.detach().clone() for name, parameter in self.named.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the weights after `step` steps."""
        if self.decay:
            weight = 1 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.weights.values()), list(self.named.values()), weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While the block runs, the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self.named.items():
            parameter.data, self.weights[name] = self.weights[name], parameter.data

    def load(self, weights: dict[str, Tensor]) -> None:
        """Continue from the average of a checkpoint; a weight that it lacks starts from the model's."""
        for name, parameter in self.named.items():
            self.weights[name].copy_(weights.get(name, parameter.detach()))
