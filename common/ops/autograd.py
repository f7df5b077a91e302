"""A helper for hand-written backward passes."""

from __future__ import annotations

import torch
from torch import Tensor


def to_overwrite(saved: Tensor) -> Tensor:
    """Return a tensor that a backward pass may overwrite: the saved one, or a copy of it if the graph is kept."""
    return saved.clone() if torch._C._autograd._get_current_graph_task_keep_graph() else saved
