"""A discriminator that learns to tell what the model makes from recordings, so that the model learns to deceive it.

Losses that compare with one recording are lowest for the mean of all that could have been recorded, which is too
smooth. A discriminator accepts whatever could have been. Only training has it: a model's weights do not contain it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from common.training.task import Loss

PART_NAMES = ("adversarial", "discriminator")  # of the log: the model's loss, and the discriminator's
LEARNING_RATE, BETAS = 5e-4, (0.5, 0.9)


class AdversarialLosses(nn.Module):
    """The losses of a model and of the discriminator that it shall deceive.

    Least squares (Mao et al., 2017, equation 9): the discriminator's output shall be 1 for recordings and 0 for the
    model's output, which shall make it 1. The model shall also give the discriminator's layers the outputs that they
    have for the recording (feature matching: Kumar et al., 2019, section 2.3).

    `discriminator(x, lengths)` returns [(output of a layer (B, C, ..., T'), its mask (B, 1, ..., T'))], the last layer
    at the end.
    """

    def __init__(self, discriminator: nn.Module) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, predicted: Tensor, recorded: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """(the model's loss, the discriminator's). The gradient of each changes only the weights that it is for."""
        with torch.autocast(predicted.device.type, enabled=False):
            predicted = predicted.float()
            of_recorded = self.discriminator(recorded, lengths)
            of_predicted = self.discriminator(predicted.detach(), lengths)
            own = _distance(of_recorded[-1], 1) + _distance(of_predicted[-1], 0)

            weights = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
            deceiving = functional_call(self.discriminator, weights, (predicted, lengths))
            pairs = zip(deceiving[:-1], of_recorded[:-1], strict=True)
            matching = [_mean((ours - theirs.detach()).abs(), mask) for (ours, mask), (theirs, _) in pairs]
            return _distance(deceiving[-1], 1) + sum(matching) / len(matching), own


def _distance(verdict: tuple[Tensor, Tensor], target: float) -> Tensor:
    return _mean((verdict[0] - target) ** 2, verdict[1])


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of values (B, C, ..., T) where mask (B, 1, ..., T) is 1."""
    return (values * mask).sum() / mask.expand_as(values).sum()


def with_adversary(loss: Loss, losses: nn.Module | None) -> Loss:
    """`loss` plus the two losses of `losses`, AdversarialLosses: the loss of a step that trains both models.

    `loss` alone without `losses`, or while the task compares nothing yet.
    """
    if losses is None:
        return loss
    if loss.compared is None:
        return replace(loss, parts=loss.parts | dict.fromkeys(PART_NAMES, loss.loss.new_zeros(())))
    weight, *compared = loss.compared
    model, own = found = losses(*compared)
    parts = loss.parts | dict(zip(PART_NAMES, found, strict=True))
    return replace(loss, loss=loss.loss + weight * model + own, parts=parts)


@dataclass
class Adversary:
    """The discriminator of a run with its optimizer."""

    losses: AdversarialLosses
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, discriminator: nn.Module) -> Adversary:
        losses = AdversarialLosses(discriminator)
        return cls(losses, torch.optim.Adam(losses.parameters(), lr=LEARNING_RATE, betas=BETAS, fused=True))

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.losses.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
