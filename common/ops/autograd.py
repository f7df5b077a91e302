"""A helper for backward passes that are written by hand."""

from __future__ import annotations

import torch
from torch import Tensor


def to_overwrite(saved: Tensor) -> Tensor:
    """Memory that a backward pass may overwrite: the saved tensor's own, or a copy if the graph is kept."""
    return saved.clone() if torch._C._autograd._get_current_graph_task_keep_graph() else saved
