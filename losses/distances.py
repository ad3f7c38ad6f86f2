"""Squared Euclidean distances by subtraction, without the [B, M, D] tensor that subtraction would need."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared distance of every row of x to every row of y; exactly 0 for equal rows.

    Differentiable twice. The forward pass never uses the expanded product ``|x|^2 + |y|^2 - 2 x.y``, which in
    float32 loses small distances between large-norm vectors; the gradient's products are taken in float64, so that
    TF32 does not enter.

    Args:
        x: [B, D].
        y: [M, D], of the same type.

    Returns:
        [B, M].
    """
    if y is x:  # PyTorch 2.11 compiles a function of the same tensor twice into half the gradient
        y = x.view_as(x)
    distances: Tensor = _SquaredDistances.apply(x, y)  # type: ignore[no-untyped-call]
    return distances


def exact_cdist(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances [B, M] by subtraction. Its own gradient cannot be differentiated again."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root of the positive part; value and gradient are 0 where x is not positive."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


class _SquaredDistances(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return exact_cdist(x, y).square()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        g, wide_x, wide_y = gradient.double(), x.double(), y.double()
        grad_x = 2 * (g.sum(dim=1)[:, None] * wide_x - g @ wide_y)
        grad_y = 2 * (g.sum(dim=0)[:, None] * wide_y - g.T @ wide_x)
        return grad_x.to(x.dtype), grad_y.to(y.dtype)
