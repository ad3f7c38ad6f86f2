"""Neighbourhood losses over an exemplar memory: every image is pulled to its own row and to rows like it.

Both losses are one autograd function. For weights ``w_ij`` (1/number of neighbours on a neighbour, 1 on the
own row) the gradient of ``-sum_j w_ij log p_ij`` by ``s_ik`` is ``scale (p_ik sum_j w_ij - w_ik)``, and the
two softmaxes of the camera-aware loss have disjoint columns. So the forward pass leaves one [B, N] tensor,
the gradient of both losses at once, and works on a few rows at a time: everything else stays below ``chunk``
elements whatever N is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from losses.precision import raised


class Neighborhood(NamedTuple):
    """Both losses of a batch and how many neighbours each image had."""

    intra: Tensor  # []
    inter: Tensor  # []
    intra_neighbors: Tensor  # [B]
    inter_neighbors: Tensor  # [B]


def camera_aware(
    similarity: Tensor,
    index: Tensor,
    cams: Tensor,
    memory_cams: Tensor,
    *,
    scale: float,
    eps: float,
    floor: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Pull every image to its neighbours of the same camera, and separately to those of the other cameras.

    The neighbours of image i on one side (same camera without the own row, or all other cameras) are the rows
    with ``v_ij > eps * max_k v_ik``, where v is the similarity on that side and -1 in every other column;
    only columns of the side can be neighbours. An image without neighbours on a side contributes 0 there; its
    own-row term stays.

    Args:
        similarity: [B, N] cosine of each image to each memory row, -1..1.
        index: [B] own memory row of each image, 0..N-1. Not checked on the device: -1 is not "no row".
        cams: [B] camera of each image; must be ``memory_cams[index]``.
        memory_cams: [N] camera of each memory row.
        scale: factor of the similarity in the softmax, above 0.
        eps: neighbour threshold, from 0; at 1 and above the sets are empty (unless the largest similarity is
            negative).
        floor: probabilities are clamped from below at this value; there they have no gradient. 0: no clamp.

    Returns:
        intra and inter loss, means over all B images; unweighted.

    Raises:
        ValueError: ``eps`` is negative.

    Source: Luo, Song, Zhang, ECCV 2020.
    """
    terms = camera_aware_terms(similarity, index, cams, memory_cams, scale=scale, eps=eps, floor=floor)
    return terms.intra, terms.inter


def camera_aware_terms(
    similarity: Tensor,
    index: Tensor,
    cams: Tensor,
    memory_cams: Tensor,
    *,
    scale: float,
    eps: float,
    floor: float = 1e-5,
    chunk: int | None = None,
) -> Neighborhood:
    """:func:`camera_aware` with every image's number of neighbours beside the losses; nothing waits.

    Args:
        chunk: elements of [B, N] worked on at a time; None: what suits the device. The numbers do not depend
            on it.
    """
    if eps < 0:
        raise ValueError(f"neighbour threshold eps is {eps}, must be 0 or more")
    log_floor = math.log(floor) if floor > 0 else -math.inf
    if chunk is None:
        chunk = 1 << 18 if similarity.device.type == "cpu" else 1 << 26
    return Neighborhood(
        *_Neighborhood.apply(similarity, index, cams, memory_cams, scale, eps, log_floor, chunk)  # type: ignore[no-untyped-call]
    )


def camera_agnostic(similarity: Tensor, index: Tensor, *, scale: float, eps: float) -> Tensor:
    """Pull every image to its own row and its neighbours, with one softmax over the whole memory.

    Args:
        similarity: [B, N] cosine of each image to each memory row, -1..1.
        index: [B] own memory row of each image, 0..N-1; not checked on the device.
        scale: factor of the similarity in the softmax, above 0.
        eps: neighbour threshold, from 0, as in :func:`camera_aware`.

    Returns:
        mean over the B images; an image without neighbours keeps its own-row term alone.

    Source: Luo, Song, Zhang, ECCV 2020.
    """
    return camera_agnostic_terms(similarity, index, scale=scale, eps=eps).intra


def camera_agnostic_terms(
    similarity: Tensor, index: Tensor, *, scale: float, eps: float, chunk: int | None = None
) -> Neighborhood:
    """:func:`camera_agnostic` with neighbour counts: the loss of a single camera without a floor."""
    cams, memory_cams = torch.zeros_like(index), index.new_zeros(similarity.shape[1])
    return camera_aware_terms(
        similarity, index, cams, memory_cams, scale=scale, eps=eps, floor=0.0, chunk=chunk
    )


class _Neighborhood(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        similarity: Tensor,
        index: Tensor,
        cams: Tensor,
        memory_cams: Tensor,
        scale: float,
        eps: float,
        log_floor: float,
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows, columns = similarity.shape
        step = max(1, chunk // max(columns, 1))
        wanted = ctx.needs_input_grad[0]
        gradient = similarity.new_empty(similarity.shape if wanted else (0,), dtype=_compute_type(similarity))
        losses, counts = [], []
        for first in range(0, rows, step):
            part = slice(first, first + step)
            same = cams[part, None] == memory_cams  # [R, N]
            out = gradient[part] if wanted else None
            loss, count = _rows(raised(similarity[part]), index[part, None], same, scale, eps, log_floor, out)
            losses.append(loss)
            counts.append(count)
        intra, inter = torch.cat(losses, dim=1).mean(dim=1)
        intra_neighbors, inter_neighbors = torch.cat(counts, dim=1)
        ctx.save_for_backward(gradient, cams, memory_cams)
        ctx.scale, ctx.dtype = scale, similarity.dtype
        ctx.mark_non_differentiable(intra_neighbors, inter_neighbors)
        return intra, inter, intra_neighbors, inter_neighbors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, intra: Tensor, inter: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradient, cams, memory_cams = ctx.saved_tensors
        factor = ctx.scale / len(cams)
        upstream = torch.where(cams[:, None] == memory_cams, intra * factor, inter * factor)  # [B, N]
        return upstream.mul_(gradient).to(ctx.dtype), *[None] * 7


def _compute_type(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def _rows(
    s: Tensor, own: Tensor, same: Tensor, scale: float, eps: float, log_floor: float, gradient: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Losses [2, R] and neighbour counts [2, R] (intra, inter) of some rows.

    ``gradient`` [R, N] receives d loss / d s without the factor ``scale``. ``s`` [R, N], ``own`` [R, 1],
    ``same`` [R, N]. Pairs below are (intra, inter) numbers [R, 1]; ``spread`` gives each column its side's.
    """
    other = ~same

    def spread(pair: Iterable[Tensor]) -> Tensor:  # [R, N]
        intra, inter = pair
        return torch.where(same, intra, inter)

    def sides(x: Tensor, empty: float) -> tuple[Tensor, Tensor]:
        return x.masked_fill(other, empty), x.masked_fill(same, empty)

    def sums(x: Tensor) -> tuple[Tensor, Tensor]:
        intra, inter = sides(x, 0.0)
        return intra.sum(1, keepdim=True), inter.sum(1, keepdim=True)

    intra, inter = sides(s, -math.inf)
    largest = (intra.scatter_(1, own, -math.inf).amax(1, keepdim=True), inter.amax(1, keepdim=True))
    del intra, inter
    # Columns that are no candidates stand in the maximum as -1, as in the original; they are never
    # neighbours.
    neighbor = s > spread(eps * m.clamp_min(-1.0) for m in largest)
    neighbor.scatter_(1, own, False)
    count = (neighbor & same).sum(1, keepdim=True), (neighbor & other).sum(1, keepdim=True)

    shift = (scale * torch.maximum(largest[0], s.gather(1, own)), scale * largest[1])
    log_p = s.mul(scale).sub_(spread(shift))
    normalizer = [total.log() for total in sums(log_p.exp())]
    log_p.sub_(spread(normalizer))  # of the own side's softmax

    own_log_p = log_p.gather(1, own)
    weight = spread(1 / c.clamp_min(1).to(s.dtype) for c in count).mul_(
        neighbor
    )  # [R, N] w_ij without the own row
    neighbor_loss = sums(weight * log_p.clamp_min(log_floor))
    loss = torch.cat([-neighbor_loss[0] - own_log_p.clamp_min(log_floor), -neighbor_loss[1]], dim=1)

    if gradient is not None:
        weight.masked_fill_(log_p < log_floor, 0.0)
        weight.scatter_(1, own, (own_log_p >= log_floor).to(s.dtype))
        torch.exp(log_p, out=gradient)
        gradient.mul_(spread(sums(weight))).sub_(weight)
    return loss.T, torch.cat(count, dim=1).T
