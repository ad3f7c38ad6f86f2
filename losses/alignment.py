"""Alignment and uniformity of two views of a batch, for generalisation to unseen domains (BAU)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crossreid.losses.distances import squared_distances
from crossreid.losses.precision import full_precision, upcast_half


@torch.no_grad()
def weights(weak: Tensor, strong: Tensor, *, k: int) -> Tensor:
    """How far the mutual neighbours of a strong view and of a weak view agree.

    Args:
        weak: [B, D] unit features of the weakly augmented images.
        strong: [B, D] of the strongly augmented ones.
        k: neighbours among all 2B views, the view itself included; at most 2B count.

    Returns:
        [B, B] Jaccard index of strong view i (row) and weak view j, 0..1.

    Source: Cho et al., BAU, NeurIPS 2024, equation 4.
    """
    features = upcast_half(torch.cat([weak, strong]))
    with full_precision(features):
        nearest = (features @ features.T).topk(min(k, len(features)), dim=1).indices
        near = torch.zeros(len(features), len(features), dtype=features.dtype, device=features.device)
        near.scatter_(1, nearest, 1)
        mutual = near * near.T
        first, second = mutual[len(weak) :], mutual[: len(weak)]
        common = first @ second.T
    union = first.sum(dim=1)[:, None] + second.sum(dim=1) - common
    return common / (union + 1e-6)


def align(weak: Tensor, strong: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean squared distance between the views of one identity; 0 where no pair has weight.

    Args:
        weak: [B, D] unit features.
        strong: [B, D].
        labels: [B] identities.
        weights: [B, B] of strong view i and weak view j; no gradient.

    Source: Cho et al., BAU, NeurIPS 2024, equation 5.
    """
    distances = squared_distances(upcast_half(strong), upcast_half(weak))
    weight = weights.detach().to(distances.dtype) * (labels[:, None] == labels)
    return (weight * distances).sum() / weight.sum().clamp_min(torch.finfo(distances.dtype).tiny)


def uniform(features: Tensor) -> Tensor:
    """Log of the mean Gaussian potential exp(-2 d^2) over all pairs: low where features spread over the sphere.

    Args:
        features: [B, D] unit rows, B >= 2.

    Source: Wang and Isola, ICML 2020; Cho et al., BAU, NeurIPS 2024, equation 6.
    """
    features, count = upcast_half(features), len(features)
    exponents = -2 * squared_distances(features, features)
    pairs = torch.ones_like(exponents, dtype=torch.bool).triu(1)
    return exponents.masked_fill(~pairs, -math.inf).flatten().logsumexp(dim=0) - math.log(
        count * (count - 1) / 2
    )


def domain_uniform(
    features: Tensor, domains: Tensor, prototypes: Tensor, prototype_domains: Tensor
) -> Tensor:
    """The same potential between each feature and the B nearest prototypes of its domain, the nearest left out.

    Args:
        features: [B, D] unit rows.
        domains: [B].
        prototypes: [M, D] unit rows, one an identity; no gradient.
        prototype_domains: [M]; each domain of the batch needs two prototypes.

    Returns:
        Log of the sum over B min(B, M - 1), as published, however many of those pairs are of one domain.

    Source: Cho et al., BAU, NeurIPS 2024, equation 8.
    """
    features = upcast_half(features)
    distances = squared_distances(features, prototypes.detach().to(features.dtype))
    distances = distances.masked_fill(domains[:, None] != prototype_domains, math.inf)
    count = min(len(features), distances.shape[1] - 1)
    near = distances.topk(count + 1, dim=1, largest=False).values[:, 1:]
    total = torch.exp(-2 * near).sum()
    return (total / (len(features) * count)).clamp_min(torch.finfo(total.dtype).tiny).log()
