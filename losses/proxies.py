"""Camera proxies: the images of one cluster in one camera, and losses over them.

Each loss is averaged within each camera of the batch and summed over the cameras. Proxies that are asked for and do not
exist (negatives, cameras) are left out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crossreid.losses.precision import upcast_half


def split(labels: Tensor, cameras: Tensor) -> Tensor:
    """Proxy of each image: its cluster in its camera, numbered by cluster, then by camera; waits for the device.

    Args:
        labels: [N] clusters, -1 outlier.
        cameras: [N], 0 or more.

    Returns:
        [N] proxies 0..M-1, -1 for outliers.
    """
    own = labels >= 0
    pair = labels * (cameras.max() + 1) + cameras
    proxy = torch.full_like(labels, -1)
    proxy[own] = torch.unique(pair[own], return_inverse=True)[1]
    return proxy


def shares(cameras: Tensor) -> Tensor:
    """Weight [B] of each image in a sum over cameras of the mean within each."""
    return (cameras[:, None] == cameras).sum(dim=1).double().reciprocal()


def intra(
    similarity: Tensor,
    own: Tensor,
    cameras: Tensor,
    proxy_camera: Tensor,
    *,
    temperature: float,
    share: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of each image's proxy over the proxies of its camera.

    Args:
        similarity: [B, M] inner products of unit features with the proxies.
        own: [B] proxy of each image.
        cameras: [B] of the images.
        proxy_camera: [M].
        temperature: divides the similarities; above 0.
        share: [B] weight of each image, where the batch is part of a larger one; None: ``shares(cameras)``.

    Source: Wang et al., CAP, AAAI 2021, equation 4.
    """
    logits = upcast_half(similarity) / temperature
    here = logits.masked_fill(cameras[:, None] != proxy_camera, -math.inf)
    return _summed(here.logsumexp(dim=1) - logits.gather(1, own[:, None]).squeeze(1), cameras, share)


def offline(
    similarity: Tensor,
    cluster: Tensor,
    cameras: Tensor,
    proxy_cluster: Tensor,
    *,
    temperature: float,
    negatives: int,
    share: Tensor | None = None,
) -> Tensor:
    """Pull each image to all proxies of its cluster, away from the most similar of the others.

    Args:
        similarity: [B, M] inner products of unit features with the proxies.
        cluster: [B] of the images.
        cameras: [B] of the images.
        proxy_cluster: [M].
        temperature: divides the similarities; above 0.
        negatives: other proxies at most.
        share: see :func:`intra`.

    Source: Wang et al., O2CAP, TIP 2022; the inter-camera loss of CAP, AAAI 2021, equation 6.
    """
    similarity = upcast_half(similarity)
    positive = cluster[:, None] == proxy_cluster
    negative = _largest(similarity.detach().masked_fill(positive, -math.inf), negatives)
    return _associate(similarity / temperature, positive, negative, cameras, share)


def online(
    similarity: Tensor,
    own: Tensor,
    cameras: Tensor,
    memory: Tensor,
    proxy_camera: Tensor,
    *,
    temperature: float,
    negatives: int,
    positives: int,
    weight: float,
    share: Tensor | None = None,
) -> Tensor:
    """Pull each image to the best proxies of different cameras, whatever their cluster.

    A proxy's score is ``weight`` times its similarity to the image, plus the rest times its similarity to the image's
    own proxy; the best of each camera compete.

    Args:
        similarity: [B, M] inner products of unit features with the proxies.
        own: [B] proxy of each image.
        cameras: [B] of the images.
        memory: [M, D] unit proxies; no gradient.
        proxy_camera: [M].
        temperature: divides the similarities; above 0.
        negatives: other proxies at most, those of the highest score.
        positives: proxies at most, one a camera.
        weight: of the image in the score, 0..1.
        share: see :func:`intra`.

    Source: Wang et al., O2CAP, TIP 2022.
    """
    similarity, rows = upcast_half(similarity), upcast_half(memory.detach())
    score = weight * similarity.detach() + (1 - weight) * (rows[own] @ rows.T).to(similarity.dtype)
    positive = _largest(_best_of_cameras(score, proxy_camera), positives)
    negative = _largest(score.masked_fill(positive, -math.inf), negatives)
    return _associate(similarity / temperature, positive, negative, cameras, share)


def _best_of_cameras(score: Tensor, proxy_camera: Tensor) -> Tensor:
    """The score [B, M] of the best proxy of each camera (the first on a tie), -inf for the others."""
    by_camera = proxy_camera.argsort(stable=True)
    order = by_camera[score[:, by_camera].argsort(dim=1, descending=True, stable=True)]  # best first
    camera = proxy_camera[order]
    grouped = camera.argsort(dim=1, stable=True)  # within a camera still the best first
    cameras = camera.gather(1, grouped)
    first = torch.ones_like(cameras, dtype=torch.bool)
    first[:, 1:] = cameras[:, 1:] != cameras[:, :-1]
    best = torch.zeros_like(first).scatter(1, order.gather(1, grouped), first)
    return score.masked_fill(~best, -math.inf)


def _largest(score: Tensor, count: int) -> Tensor:
    """Which entries of each row are its ``count`` largest finite ones, [B, M]."""
    values, columns = score.topk(min(count, score.shape[1]), dim=1)
    return torch.zeros_like(score, dtype=torch.bool).scatter(1, columns, values > -math.inf)


def _associate(
    logits: Tensor, positive: Tensor, negative: Tensor, cameras: Tensor, share: Tensor | None
) -> Tensor:
    """Mean over the positives of -log softmax over positives and negatives."""
    total = logits.masked_fill(~(positive | negative), -math.inf).logsumexp(dim=1)
    mean = logits.masked_fill(~positive, 0).sum(dim=1) / positive.sum(dim=1)
    return _summed(total - mean, cameras, share)


def _summed(losses: Tensor, cameras: Tensor, share: Tensor | None) -> Tensor:
    share = shares(cameras) if share is None else share
    return (losses * share.to(losses.dtype)).sum()
