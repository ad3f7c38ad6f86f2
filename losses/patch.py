"""PAUL's losses: patches against a patch memory, whole images against their running means, stage 1's triplet."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from crossreid.losses.distances import exact_cdist, safe_sqrt, squared_distances
from crossreid.losses.precision import full_precision, upcast_half


def pedal(
    features: Tensor, centers: Tensor, index: Tensor, *, scale: float, k: int, known: Tensor | None = None
) -> Tensor:
    """Pull every patch to the k nearest of the other images' patch centres, away from the rest.

    ``-log( sum over the k nearest of exp(-s d) / sum over all others of exp(-s d) )`` with squared distances d;
    the image's own centre stands in neither sum. With no more than k other images the loss is exactly 0.

    Args:
        features: [K, B, D] patch features, about unit length.
        centers: [K, N, D] patch memory; constants.
        index: [B] own row of each image, 0..N-1; not checked on the device.
        scale: s, above 0.
        k: neighbours, from 1.
        known: [N] which rows count, if not all do; each image needs another one that does.

    Returns:
        mean over patches and images.

    Raises:
        ValueError: k below 1.

    Source: Yang et al., Patch-based Discriminative Feature Learning (PAUL), CVPR 2019.
    """
    if k < 1:
        raise ValueError(f"{k} neighbours asked for; k must be 1 or more")
    features, centers = upcast_half(features), upcast_half(centers.detach())
    if centers.shape[1] - 1 <= k:
        return features.sum() * 0
    logits = _logits(features, centers, index, scale)  # [K, B, N]
    if known is not None:
        logits = logits.masked_fill(~known, -math.inf)
    nearest = logits.detach().topk(k, dim=2).indices  # [K, B, k]
    return (logits.logsumexp(dim=2) - logits.gather(2, nearest).logsumexp(dim=2)).mean()


def _logits(features: Tensor, centers: Tensor, index: Tensor, scale: float) -> Tensor:
    """``-s d`` [K, B, N] up to ``s |f|^2``, which both sums share; -inf in the own column.

    By a product, since N is large: without the common term nothing cancels, and the float32 error is that of the
    product alone, about 1e-7 s |f| |c|.
    """
    with full_precision(features):
        inner = features @ centers.mT  # [K, B, N]
    lengths = torch.linalg.vector_norm(centers, dim=2).square()[:, None]  # [K, 1, N]
    own = index[None, :, None].expand(len(features), -1, 1)
    logits: Tensor = scale * (2 * inner - lengths)
    return logits.scatter(2, own, -math.inf)


def ipfl(
    features: Tensor,
    centers: Tensor,
    *,
    views: int,
    margin: float,
    max_rank: int,
    nearest: int,
    first: int = 0,
) -> Tensor:
    """Keep every view nearer to its image's centre than to the hard negative found by cyclic ranking.

    The other images' centres are visited by their distance to the view, ``max_rank`` at most; the first whose own
    ``nearest`` centres do not contain the view's image is the hard negative. A view without one is pulled to its
    centre with a constant on top: ``margin + distance``. Equal points have gradient 0.

    Args:
        features: [B * V, D]; rows l * V .. l * V + V - 1 are the views of image ``first`` + l.
        centers: [M, D] running mean of each image of the batch, M >= B: of all ranks joined; constants.
        views: V.
        margin: in units of the distance.
        max_rank: centres that are tried.
        nearest: length of a centre's own list, itself included.
        first: row of the first image's centre.

    Returns:
        mean over the B * V rows.

    Raises:
        ValueError: features that are not ``views`` rows an image, or images without a centre.

    Source: Yang et al., Patch-based Discriminative Feature Learning (PAUL), CVPR 2019.
    """
    features, centers = upcast_half(features), upcast_half(centers.detach())
    images = len(features) // views
    if len(features) != images * views or first + images > len(centers):
        raise ValueError(
            f"{len(features)} features in {views} views of images from number {first}, for {len(centers)} centres"
        )
    own = torch.arange(first, first + images, device=features.device).repeat_interleave(views)  # [B V]
    negative, found = _cyclic_negative(features.detach(), centers, own, max_rank, nearest)
    pull = safe_sqrt((features - centers[own]).square().sum(dim=1))
    push = safe_sqrt((features - centers[negative]).square().sum(dim=1))
    return (margin + pull - torch.where(found, push, 0.0)).clamp_min(0).mean()


def _cyclic_negative(
    features: Tensor, centers: Tensor, own: Tensor, max_rank: int, nearest: int
) -> tuple[Tensor, Tensor]:
    """Hard negative of every row, [B V], and whether there is one."""
    images = len(centers)
    order = exact_cdist(features, centers).scatter(1, own[:, None], math.inf).argsort(dim=1, stable=True)
    between = exact_cdist(centers, centers).fill_diagonal_(-1)  # every centre heads its own list
    lists = between.argsort(dim=1, stable=True)[:, :nearest]
    listed = torch.zeros_like(between, dtype=torch.bool).scatter_(1, lists, True)  # [j, l]: j lists l
    rank = torch.arange(images, device=own.device)
    accepted = ~listed.T[own].gather(1, order) & (rank < min(max_rank, images - 1))  # [B V, rank]
    first = torch.where(accepted, rank, images).amin(dim=1)
    negative = order.gather(1, first.clamp_max(images - 1)[:, None]).squeeze(1)
    return negative, first < images


def nearest_positive_triplet(
    features: Tensor, pids: Tensor, *, margin: float, normalize: bool, eps: float = 1e-5
) -> Tensor:
    """Keep every image's nearest positive nearer than its nearest negative by a margin.

    The published name is "hard", but the positive is the nearest of the other images of the identity. An image without
    a positive or without a negative contributes 0. Ties of the negative share the gradient equally.

    Args:
        features: [B, D].
        pids: [B] identities.
        margin: in units of the distance.
        normalize: bring the features to unit length first.
        eps: added to the squared distance under the root, above 0.

    Returns:
        mean over the B images.

    Source: the triplet term of PAUL's code (Yang et al., CVPR 2019).
    """
    features = upcast_half(features)
    if normalize:
        features = F.normalize(features, dim=1)
    distances = (squared_distances(features, features) + eps).sqrt()  # [B, B]
    same = pids[:, None] == pids
    partner = same & ~torch.eye(len(pids), dtype=torch.bool, device=pids.device)
    positive = distances.masked_fill(~partner, math.inf).min(dim=1).values
    negative = distances.masked_fill(same, math.inf).amin(dim=1)
    positive = torch.where(partner.any(dim=1), positive, -math.inf)  # then the hinge is closed
    return (margin + positive - negative).clamp_min(0).mean()
