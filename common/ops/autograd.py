"""For hand-written backward passes."""

from __future__ import annotations

import torch
from torch import Tensor


def to_overwrite(saved: Tensor) -> Tensor:
    """What a backward pass may overwrite: the forward pass's memory, unless the graph is kept for another pass."""
    return saved.clone() if torch._C._autograd._get_current_graph_task_keep_graph() else saved
