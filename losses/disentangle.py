"""Losses that separate identity from pose: alignment, contrast, orthogonality and reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from crossreid.losses.distances import safe_sqrt, squared_distances
from crossreid.losses.precision import upcast_half


def mmd(x: Tensor, y: Tensor, *, sigmas: Sequence[float]) -> Tensor:
    """Maximum mean discrepancy of two sets under a sum of Gaussian kernels ``exp(-d^2 / (2 sigma^2))``.

    Biased estimate, diagonals included; the root of its positive part. Value and gradient are 0 for equal sets.

    Args:
        x: [B, ...] features of one domain, flattened to [B, D].
        y: [M, ...] of the other; M may differ from B.
        sigmas: widths of the kernels, above 0.

    Raises:
        ValueError: no kernel.

    Source: Gretton et al., A Kernel Two-Sample Test, JMLR 2012; used by Li et al. (ARN), CVPR-W 2018.
    """
    if not len(sigmas):
        raise ValueError("mmd needs one kernel width or more in sigmas")
    x, y = upcast_half(x).flatten(1), upcast_half(y).flatten(1)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        distances = squared_distances(a, b)
        return torch.stack([torch.exp(distances / (-2 * sigma**2)).mean() for sigma in sigmas]).sum()

    return safe_sqrt(kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))


def contrastive(features: Tensor, pids: Tensor, *, margin: float) -> Tensor:
    """Pull pairs of one identity together, push others apart up to a margin.

    Args:
        features: [B, ...], flattened to [B, D].
        pids: [B] identities.
        margin: in units of the SQUARED distance divided by D.

    Returns:
        mean over the B (B - 1) / 2 pairs; 0 for a batch of one.

    Source: Li et al., Adaptation and Re-Identification Network (ARN), CVPR-W 2018.
    """
    features = upcast_half(features).flatten(1)
    batch, dim = features.shape
    distances = squared_distances(features, features) / dim  # [B, B], 0 on the diagonal
    apart = (margin - distances).clamp_min(0)
    pairs = torch.where(pids[:, None] == pids, distances, apart).triu(1)
    return pairs.sum() * (2 / max(1, batch * (batch - 1)))


def orthogonality(a: Tensor, b: Tensor, *, kind: Literal["cosine", "original"] = "cosine") -> Tensor:
    """Keep two features of the same images apart.

    Args:
        a: [B, ...], flattened to [B, D].
        b: the same shape.
        kind: "cosine": mean over the batch of the squared cosine, 0..1. "original": the inner product of the
            flattened batches, as published; it rewards negative values without bound and grows with B.

    Raises:
        ValueError: another kind.

    Source: Li et al., Adaptation and Re-Identification Network (ARN), CVPR-W 2018 ("original").
    """
    a, b = upcast_half(a).flatten(1), upcast_half(b).flatten(1)
    if kind == "original":
        return (a * b).sum()
    if kind != "cosine":
        raise ValueError(f"orthogonality kind {kind!r}; it is 'cosine' or 'original'")
    return (F.normalize(a, dim=1) * F.normalize(b, dim=1)).sum(dim=1).square().mean()


def reconstruction(output: Tensor, target: Tensor, *, norm: Literal["l1", "l2"] = "l1") -> Tensor:
    """Difference of two image batches, divided by the number of pixels (not of numbers: channels are summed).

    Args:
        output: [B, C, H, W].
        target: the same shape.
        norm: "l1": sum of absolute differences. "l2": the Euclidean norm of the whole batch's difference, not
            squared; gradient 0 where the batches are equal.

    Raises:
        ValueError: another norm.

    Source: Li et al., Adaptation and Re-Identification Network (ARN), CVPR-W 2018.
    """
    difference = upcast_half(output) - upcast_half(target)
    pixels = difference.numel() / difference.shape[1]
    if norm == "l1":
        return difference.abs().sum() / pixels
    if norm != "l2":
        raise ValueError(f"reconstruction norm {norm!r}; it is 'l1' or 'l2'")
    return safe_sqrt(difference.square().sum()) / pixels


def masked_l2(output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Sum of squared differences over the sum of the mask, which is ONLY the divisor.

    Multiply output and target by the mask before, or pixels outside it count too.

    Args:
        output: [B, C, H, W].
        target: the same shape.
        mask: [B, C, H, W] or a shape that broadcasts to it, 0..1; every channel counts in the sum.

    Returns:
        the quotient; 0, with gradient 0, for a mask of zeros.

    Source: the masked reconstruction of the cross-domain encoder-decoder built on ARN.
    """
    total = upcast_half(mask).expand_as(output).sum()
    squares = (upcast_half(output) - upcast_half(target)).square().sum()
    present = total > 0
    return torch.where(present, squares, 0.0) / torch.where(present, total, 1.0)
