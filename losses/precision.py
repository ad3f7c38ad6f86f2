"""The rule that every loss follows: half precision is upcast_half to float32, float64 stays float64."""

from __future__ import annotations

import torch
from torch import Tensor


def upcast_half(x: Tensor) -> Tensor:
    """The tensor itself, or its float32 copy if it is float16 or bfloat16."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(x: Tensor) -> torch.autocast:
    """Context in which autocast leaves the matrix products of ``x``'s device alone."""
    return torch.autocast(x.device.type, enabled=False)
