"""One optimizer step: forward pass, loss, backward pass and update."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from common.config import TrainerConfig
from common.distributed.ranks import Ranks
from common.ops.precision import autocast
from common.training.adversary import with_adversary
from common.training.meter import Meter
from common.training.state import TrainingState
from common.training.task import Objective


class OptimizerStep:
    """Updates the weights with the batches of one step, unless the gradient is not finite."""

    def __init__(self, objective: Objective, state: TrainingState, options: TrainerConfig, ranks: Ranks) -> None:
        self.objective, self.state, self.options, self.device = objective, state, options, ranks.device
        self.parallel = _parallel(state.model, ranks)
        self.adversary = state.adversary
        self.losses = _parallel(state.adversary.losses, ranks) if state.adversary else None
        self.bad_steps = torch.tensor(state.progress.bad_steps, device=ranks.device)  # consecutive

    def __call__(self, batches: list[Any], *meters: Meter) -> None:
        """Accumulate the gradients of `batches` and update the weights.

        Nothing here waits for the device, which itself checks whether the gradient is finite.
        """
        model, scaler = self.state.model, self.state.scaler
        model.zero_grad()
        if self.adversary:
            self.adversary.losses.zero_grad()
        buffers = [buffer.clone() for buffer in model.buffers()]  # the forward pass updates BatchNorm's averages
        for i, batch in enumerate(batches):
            with nullcontext() if i == len(batches) - 1 else self._no_sync():
                with autocast(self.device, self.options.precision):
                    on_device = to_device(batch, self.device)
                    result = self.objective(self.parallel, on_device, self.state.progress.step, self.state.generator)
                    result = with_adversary(result, self.losses)
                scaler.scale(result.loss / len(batches)).backward()
            for meter in meters:
                meter.add(result)
        norm, finite = self._update(model, self.state.optimizer, self.options.grad_clip_norm)
        if self.adversary and result.compared:
            self._update(self.adversary.losses, self.adversary.optimizer, None)
        scaler.update()
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            # The average of a large activation can overflow although the gradient is finite.
            buffer.copy_(torch.where(finite & torch.isfinite(buffer).all(), buffer, before))
        self.bad_steps = torch.where(finite, 0, self.bad_steps + 1)
        for meter in meters:
            meter.add_step(norm, finite)

    def _update(self, module: nn.Module, optimizer: Optimizer, limit: float | None) -> tuple[Tensor, Tensor]:
        """Update the weights, unless the gradient is not finite. Return its norm, and whether it is finite."""
        scaler = self.state.scaler
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(module.parameters(), limit or float("inf"))
        finite = torch.isfinite(norm)
        if not scaler.is_enabled():  # an enabled scaler sets found_inf itself, and lowers its scale
            optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined] # read by fused Adam
        scaler.step(optimizer)
        # A fused optimizer does not count its writes, but packed weights (common/ops/packed.py) rely on that count.
        torch.autograd.graph.increment_version(list(module.parameters()))
        return norm, finite

    def _no_sync(self) -> AbstractContextManager[Any]:
        """A context in which a backward pass adds to this rank's gradients and does not average them over ranks."""
        stack = ExitStack()
        for module in (self.parallel, self.losses):
            if isinstance(module, DistributedDataParallel):
                stack.enter_context(module.no_sync())
        return stack


def to_device(batch: Any, device: torch.device) -> Any:
    """Move a batch, a NamedTuple of tensors and None, to the device."""
    return type(batch)(*(value if value is None else value.to(device, non_blocking=True) for value in batch))


def _parallel(model: nn.Module, ranks: Ranks) -> nn.Module:
    if ranks.world_size == 1:
        return model
    devices = [ranks.local_rank] if ranks.device.type == "cuda" else None
    # Each rank normalizes with the BatchNorm statistics of its own batch, as in the reference; the running averages,
    # which validation uses, are those of rank 0. With tens of clips on each rank, the statistics of a batch cover
    # thousands of positions. SyncBatchNorm would gain nothing, and it waits for all ranks in every layer, forward and
    # backward.
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
