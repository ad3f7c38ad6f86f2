"""Pooling of feature maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def upcast(x: Tensor) -> Tensor:
    """At least float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class GeM(nn.Module):
    """Generalised mean over the positions of a feature map, its exponent learnt.

    Source: Radenovic et al., Fine-tuning CNN Image Retrieval, PAMI 2018.

    Args:
        p: exponent to begin with; 1 is the mean, infinity the maximum.
        eps: smaller activations count as this.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p, self.eps = nn.Parameter(torch.full((1,), float(p))), eps

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C], at least float32."""
        return upcast(x).clamp_min(self.eps).pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)


class Average(nn.Module):
    """Mean over the positions of a feature map: [B, C, H, W] to [B, C], at least float32."""

    def forward(self, x: Tensor) -> Tensor:
        return upcast(x.mean(dim=(2, 3)))


POOLS = {"gem": GeM, "avg": Average}
