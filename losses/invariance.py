"""Exemplar- and neighbourhood-invariance over a memory with one row an image."""

from __future__ import annotations

import torch
from torch import Tensor

from crossreid.losses.precision import upcast_half


def exemplar_invariance(similarity: Tensor, index: Tensor, *, temperature: float, k: int) -> Tensor:
    """Classify every image as its own memory row with weight 1 and as its k nearest rows with weight 1/k each.

    The nearest rows are taken from all N; the own row keeps weight 1 where it is one of them. So the weights of
    an image add up to 2 or to 2 - 1/k, not to 1. With k = 0 this is the cross-entropy of a memory classifier.

    Args:
        similarity: [B, N] of each image to each row, before the temperature.
        index: [B] own row of each image, 0..N-1; not checked on the device.
        temperature: divides the similarity, above 0.
        k: neighbours, 0..N.

    Returns:
        mean over the B images.

    Raises:
        ValueError: k is negative or larger than the memory.

    Source: Zhong et al., Invariance Matters, CVPR 2019.
    """
    rows = similarity.shape[1]
    if not 0 <= k <= rows:
        raise ValueError(f"{k} neighbours asked of a memory of {rows} rows; k must lie in 0..{rows}")
    logits = upcast_half(similarity) / temperature  # [B, N]
    normalizer = logits.logsumexp(dim=1)  # [B]
    loss = normalizer - logits.gather(1, index[:, None]).squeeze(1)
    if k > 0:
        nearest = logits.detach().topk(k, dim=1).indices  # [B, k]
        others = nearest != index[:, None]
        unlikely = normalizer[:, None] - logits.gather(1, nearest)
        loss = loss + torch.where(others, unlikely, 0.0).sum(dim=1) / k
    return loss.mean()
