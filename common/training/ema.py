"""Averages of weights, which often speak better than the last step's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """The exponential moving average (EMA) of a model's parameters: average <- decay * average + (1 - decay) * now.

    Without a decay it is empty, and all it does is nothing. Early on the decay is smaller, (1 + step) / (10 + step), so
    that the first steps' weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        self.decay = decay
        self.named = dict(model.named_parameters()) if decay else {}
        self.weights = {name: parameter.detach().clone() for name, parameter in self.named.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        if self.decay:
            weight = 1 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.weights.values()), list(self.named.values()), weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While the block runs the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self.named.items():
            parameter.data, self.weights[name] = self.weights[name], parameter.data

    def load(self, weights: dict[str, Tensor]) -> None:
        """Go on from those of a checkpoint; one that has none starts from the model's weights."""
        for name, parameter in self.named.items():
            self.weights[name].copy_(weights.get(name, parameter.detach()))
