"""Number formats: float32 with or without TensorFloat-32, and bfloat16 or float16 through autocast."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from common.errors import UserError, did_you_mean

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def set_tf32(enabled: bool) -> None:
    """Set whether matrix products, convolutions and LSTMs on GPUs round float32 inputs to TensorFloat-32."""
    precision = "tf32" if enabled else "ieee"
    torch.backends.cuda.matmul.fp32_precision = precision
    torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined] # PyTorch has no annotation
    torch.backends.cudnn.rnn.fp32_precision = precision  # type: ignore[attr-defined] # the same


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a model computes in `precision`, one of PRECISIONS."""
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision!r} is unknown{did_you_mean(precision, PRECISIONS)}")
    return torch.autocast(device.type, dtype=_DTYPES.get(precision), enabled=precision != "fp32")


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype that autocast casts x to if it is enabled, else the dtype of x."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
