"""One forward and backward pass over the largest batch that can occur, so that a lack of memory shows at the start."""

from __future__ import annotations

import torch

from common.config import TrainerConfig
from common.data.dataset import RunData
from common.distributed.ranks import Ranks
from common.ops.precision import autocast
from common.training.adversary import with_adversary
from common.training.state import TrainingState
from common.training.step import to_device
from common.training.task import Objective
from common.wording import counted


def dry_run(objective: Objective, data: RunData, state: TrainingState, options: TrainerConfig, ranks: Ranks) -> str:
    """Run the pass and describe the batch. Weights, buffers and random states stay unchanged."""
    model, device, clips = state.model, ranks.device, data.largest_batch()
    buffers = [buffer.clone() for buffer in model.buffers()]
    # Memory that training needs later: Adam's state, and the buckets of DistributedDataParallel.
    copies = (0 if state.optimizer.state else 2) + (ranks.world_size > 1)
    later = [torch.empty_like(parameter) for parameter in model.parameters() for _ in range(copies)]
    model.train()
    with autocast(device, options.precision):
        batch = to_device(data.collate([data.train[(clip, 0)] for clip in clips]), device)
        found = objective(model, batch, state.progress.step, torch.Generator(device))
        loss = with_adversary(found, state.adversary.losses if state.adversary else None).loss
    loss.backward()
    del later, found, loss
    model.zero_grad()
    if state.adversary:
        state.adversary.losses.zero_grad()
    for buffer, before in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(before)
    frames = max(data.train.lengths[clip] for clip in clips)
    text = f"the largest batch fits: {counted(len(clips), 'clip')} of up to {counted(frames, 'frame')} on each rank"
    if device.type == "cuda":
        peak, total = torch.cuda.max_memory_reserved(device), torch.cuda.mem_get_info(device)[1]
        text += f", {peak / 2**30:.1f} of {total / 2**30:.1f} GiB"
    return text
