"""Triplet loss on the hardest pairs of a batch."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from crossreid.losses.distances import squared_distances
from crossreid.losses.precision import upcast_half


def batch_hard(features: Tensor, pids: Tensor, *, margin: float) -> Tensor:
    """Keep every image's farthest positive nearer than its nearest negative by a margin.

    An image counts among its own positives, so one without partner is trained as ``margin - nearest negative``.
    An image without a negative contributes 0: check for batches of one identity where they are drawn, a check here
    would make the host wait. Ties share the gradient equally. Differentiable twice.

    Args:
        features: [B, D], not normalised.
        pids: [B] identities.
        margin: in units of the distance.

    Returns:
        mean over the B images.

    Source: Hermans, Beyer, Leibe, In Defense of the Triplet Loss, 2017; Euclidean distances clamped at 1e-6.
    """
    return (_gaps(features, pids) + margin).clamp_min(0).mean()


def soft_batch_hard(features: Tensor, pids: Tensor) -> Tensor:
    """The same without a margin: the mean of ``log(1 + exp(farthest positive - nearest negative))``.

    Args:
        features: [B, D], not normalised.
        pids: [B] identities.

    Source: Hermans, Beyer, Leibe, In Defense of the Triplet Loss, 2017, section 3.2.
    """
    return F.softplus(_gaps(features, pids)).mean()


def _gaps(features: Tensor, pids: Tensor) -> Tensor:
    """Distance to the farthest positive minus that to the nearest negative [B], minus infinity without a negative."""
    features = upcast_half(features)
    distances = squared_distances(features, features).clamp_min(1e-12).sqrt()  # [B, B]
    same = pids[:, None] == pids
    positive = distances.masked_fill(~same, -math.inf).amax(dim=1)
    return positive - distances.masked_fill(same, math.inf).amin(dim=1)
