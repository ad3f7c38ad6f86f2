"""Cluster contrast: features against one row a cluster."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from crossreid.losses.precision import upcast_half


@torch.no_grad()
def centroids(features: Tensor, labels: Tensor) -> Tensor:
    """Mean feature of each cluster, at unit length; waits for the device.

    Args:
        features: [N, D], unit rows.
        labels: [N] clusters 0..C-1 without holes; -1: outlier, left out.

    Returns:
        [C, D].

    Raises:
        ValueError: no cluster at all, or numbers with holes.
    """
    own = labels >= 0
    members = labels[own]
    count = torch.bincount(members)
    if not len(count) or bool((count == 0).any()):
        raise ValueError(f"labels must be clusters 0..C-1 without holes, got {labels.tolist()[:9]}")
    total = features.new_zeros(len(count), features.shape[1]).index_add_(0, members, features[own])
    return F.normalize(total / count[:, None])


def contrast(similarity: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy of each feature's cluster over all rows of a memory (InfoNCE).

    Args:
        similarity: [B, C] inner products of unit features with unit rows.
        labels: [B] row of each feature, 0..C-1.
        temperature: divides the similarities; above 0.

    Returns:
        mean over the B features.

    Source: Dai et al., Cluster Contrast, ACCV 2022, equation 3.
    """
    return F.cross_entropy(upcast_half(similarity) / temperature, labels)
