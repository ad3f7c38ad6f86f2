"""Neighbourhood losses over an exemplar memory: every image is pulled to its own row and to rows like it.

Both losses are one autograd function. For weights ``w_ij`` (1/number of neighbours on a neighbour, 1 on the
own row) the gradient of ``-sum_j w_ij log p_ij`` by ``s_ik`` is ``scale (p_ik sum_j w_ij - w_ik)``, and the
two softmaxes of the camera-aware loss have disjoint columns. So the forward pass leaves one [B, N] tensor,
the gradient of both losses at once, and works on a few rows at a time in six buffers of about ``chunk``
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

FAR = 1e30  # subtracted where a column does not count; far beyond any similarity


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
        memory_cams: [N] camera of each memory row, a number below 2^24.
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
        chunk = 1 << 19 if similarity.device.type == "cpu" else 1 << 24
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
        dtype = raised(similarity[:0]).dtype
        wanted = ctx.needs_input_grad[0]
        gradient = similarity.new_empty(similarity.shape if wanted else (0,), dtype=dtype)
        cams, memory_cams = cams.to(dtype), memory_cams.to(dtype)
        parts, work = _parts(similarity, chunk, 6, dtype)
        losses, counts = [], []
        for part in parts:
            sides = _Sides(cams[part], memory_cams, work)
            out = gradient[part] if wanted else sides.buffer(5)
            s = raised(similarity[part])
            loss, count = _rows(s, index[part, None], sides, scale, eps, log_floor, out, wanted)
            losses.append(loss)
            counts.append(count)
        intra, inter = torch.cat(losses, dim=1).mean(dim=1)
        intra_neighbors, inter_neighbors = torch.cat(counts, dim=1).long()
        ctx.save_for_backward(gradient, cams, memory_cams)
        ctx.scale, ctx.dtype, ctx.chunk = scale, similarity.dtype, chunk
        ctx.mark_non_differentiable(intra_neighbors, inter_neighbors)
        return intra, inter, intra_neighbors, inter_neighbors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, intra: Tensor, inter: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradient, cams, memory_cams = ctx.saved_tensors
        factor = ctx.scale / len(cams)
        result = torch.empty_like(gradient, dtype=ctx.dtype)
        parts, work = _parts(gradient, ctx.chunk, 3, gradient.dtype)
        for part in parts:
            upstream = _Sides(cams[part], memory_cams, work).spread((intra * factor, inter * factor))
            torch.mul(upstream, gradient[part], out=result[part])
        return result, *[None] * 7


def _parts(x: Tensor, chunk: int, buffers: int, dtype: torch.dtype) -> tuple[list[slice], Tensor]:
    """Slices of rows that hold about ``chunk`` elements, and as many buffers of that size."""
    rows, columns = x.shape
    step = min(rows, max(1, chunk // max(columns, 1)))
    work = x.new_empty(buffers, step, columns, dtype=dtype)
    return [slice(first, min(first + step, rows)) for first in range(0, rows, step)], work


class _Sides:
    """The two sides of some rows as factors of 1 and 0, and buffers to work in.

    On a CPU arithmetic in place is several times faster than selection into new tensors.
    """

    def __init__(self, cams: Tensor, memory_cams: Tensor, work: Tensor) -> None:
        self.work = work[:, : len(cams)]  # [buffers, R, N]
        self.same = torch.sub(memory_cams, cams[:, None], out=self.buffer(0)).eq_(0)
        self.other = torch.sub(1, self.same, out=self.buffer(1))

    def buffer(self, k: int) -> Tensor:
        return self.work[k]

    def spread(self, pair: Iterable[Tensor], k: int = 2) -> Tensor:
        """Each column's own side's number, exactly: [R, N] of two finite [R, 1], in buffer k."""
        intra, inter = pair
        return torch.mul(self.same, intra, out=self.buffer(k)).addcmul_(self.other, inter)

    def sums(self, x: Tensor) -> tuple[Tensor, Tensor]:
        intra = torch.mul(x, self.same, out=self.buffer(2)).sum(1, keepdim=True)
        return intra, torch.mul(x, self.other, out=self.buffer(2)).sum(1, keepdim=True)

    def largest(self, s: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Largest candidate of each side, [R, 1]; about -FAR on a side without any."""
        intra = torch.add(s, self.other, alpha=-FAR, out=self.buffer(2)).scatter_(1, own, -FAR)
        intra = intra.amax(1, keepdim=True)
        return intra, torch.add(s, self.same, alpha=-FAR, out=self.buffer(2)).amax(1, keepdim=True)


def _rows(
    s: Tensor,
    own: Tensor,
    sides: _Sides,
    scale: float,
    eps: float,
    log_floor: float,
    p: Tensor,
    wanted: bool,
) -> tuple[Tensor, Tensor]:
    """Losses [2, R] and neighbour counts [2, R] (intra, inter) of rows ``s`` [R, N] with own columns [R, 1].

    ``p`` [R, N] receives, if wanted, d loss / d s without the factor ``scale``. Pairs are (intra, inter), [R, 1] each.
    """
    largest = sides.largest(s, own)
    # Columns that are no candidates stand in the maximum as -1, as in the original; they are never neighbours.
    neighbor = sides.spread((eps * m.clamp_min(-1.0) for m in largest), k=3).lt_(s)  # [R, N] 1 or 0
    neighbor.scatter_(1, own, 0.0)
    count = sides.sums(neighbor)

    top = torch.maximum(largest[0], s.gather(1, own)), largest[1].where(largest[1] > -FAR / 2, 0.0)
    log_p = torch.mul(s, scale, out=sides.buffer(4)).sub_(sides.spread(scale * m for m in top))  # to 0
    torch.exp(log_p, out=p)
    total = [x.clamp_min(0.5) for x in sides.sums(p)]  # 1 or more where the side has columns
    log_p.sub_(sides.spread(x.log() for x in total))  # of each side's own softmax

    own_log_p = log_p.gather(1, own)
    weight = neighbor.mul_(sides.spread(1 / c.clamp_min(1) for c in count))  # w_ij without the own row
    if wanted:
        active = sides.buffer(5).copy_(log_p).ge_(log_floor)  # 1 or 0
    near = sides.sums(log_p.clamp_min_(log_floor).mul_(weight))
    loss = torch.cat([-near[0] - own_log_p.clamp_min(log_floor), -near[1]], dim=1)

    if wanted:
        weight.mul_(active).scatter_(1, own, (own_log_p >= log_floor).to(s.dtype))
        share = (w / x for w, x in zip(sides.sums(weight), total))
        p.mul_(sides.spread(share)).sub_(weight)
    return loss.T, torch.cat(count, dim=1).T
