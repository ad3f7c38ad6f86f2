"""Neighbourhood losses over an exemplar memory: every image is pulled to its own row and to rows like it.

Both losses are one autograd function. For weights ``w_ij`` (1/number of neighbours on a neighbour, 1 on the
own row) the gradient of ``-sum_j w_ij log p_ij`` by ``s_ik`` is ``scale (p_ik sum_j w_ij - w_ik)``, and the
two softmaxes of the camera-aware loss have disjoint columns. So the forward pass leaves one [B, N] tensor,
the gradient of both losses at once.

Columns are regrouped into blocks of one camera, so that a block as a whole lies on one side of an image: sums and
maxima are taken by block, what tells the sides apart is of the size [B, blocks], and there are no masks of [B, N].
A few rows are worked on at a time, in three buffers of about ``chunk`` elements whatever N is.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from crossreid.losses.camera_blocks import CameraBlocks
from crossreid.losses.precision import upcast_half

FAR = 1e30  # similarity -FAR: a column that does not exist


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
    memory_cams: Tensor | CameraBlocks,
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
        memory_cams: [N] camera of each memory row, or its :class:`CameraBlocks`: these are made anew from a tensor,
            for which a GPU is waited for.
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
    memory_cams: Tensor | CameraBlocks,
    *,
    scale: float,
    eps: float,
    floor: float = 1e-5,
    chunk: int | None = None,
) -> Neighborhood:
    """:func:`camera_aware` with every image's number of neighbours beside the losses; with blocks nothing waits.

    Args:
        chunk: elements of [B, N] worked on at a time; None: what suits the device. The numbers do not depend
            on it.
    """
    if eps < 0:
        raise ValueError(f"neighbour threshold eps is {eps}, must be 0 or more")
    log_floor = math.log(floor) if floor > 0 else -math.inf
    if chunk is None:
        chunk = 1 << 19 if similarity.device.type == "cpu" else 1 << 24
    blocks = memory_cams if isinstance(memory_cams, CameraBlocks) else CameraBlocks.of(memory_cams)
    values = _Neighborhood.apply(similarity, index, cams, blocks, (scale, eps, log_floor), chunk)  # type: ignore[no-untyped-call]
    return Neighborhood(*values)


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
    blocks = CameraBlocks.one_camera(similarity.shape[1], similarity.device)
    cams = torch.zeros_like(index)
    return camera_aware_terms(similarity, index, cams, blocks, scale=scale, eps=eps, floor=0.0, chunk=chunk)


class _Neighborhood(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        similarity: Tensor,
        index: Tensor,
        cams: Tensor,
        blocks: CameraBlocks,
        settings: tuple[float, float, float],
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dtype, columns = upcast_half(similarity[:0]).dtype, len(blocks.columns)
        needs_grad = ctx.needs_input_grad[0]
        gradient = similarity.new_empty((len(index), columns) if needs_grad else (0,), dtype=dtype)
        same = blocks.cams == cams[:, None]  # [B, blocks]
        own = blocks.place[index][:, None]  # [B, 1]
        parts = _parts(len(index), columns, chunk)
        work = gradient.new_empty(3 if needs_grad else 4, parts[0].stop, columns)
        losses, counts = [], []
        for part in parts:
            sides = _Sides(same[part], work[:, : part.stop - part.start])
            rows = upcast_half(similarity[part])
            block = torch.index_select(rows, 1, blocks.columns, out=work[0, : len(rows)])
            block.index_fill_(1, blocks.gaps, -FAR)
            grad = gradient[part] if needs_grad else sides.work[3]
            loss, count = _loss_and_grad(block, own[part], sides, settings, grad, needs_grad)
            losses.append(loss)
            counts.append(count)
        intra, inter = torch.cat(losses).mean(dim=0)
        intra_neighbors, inter_neighbors = torch.cat(counts).long().T
        ctx.save_for_backward(gradient, same)
        ctx.place, ctx.scale, ctx.dtype, ctx.chunk = blocks.place, settings[0], similarity.dtype, chunk
        ctx.mark_non_differentiable(intra_neighbors, inter_neighbors)
        return intra, inter, intra_neighbors, inter_neighbors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, intra: Tensor, inter: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradient, same = ctx.saved_tensors
        factor = ctx.scale / len(same)
        result = gradient.new_empty(len(same), len(ctx.place), dtype=ctx.dtype)
        upstream = torch.where(same, intra * factor, inter * factor)[..., None]  # [B, blocks, 1]
        for part in _parts(len(same), gradient.shape[1], ctx.chunk):
            scaled = gradient[part].view(*same[part].shape, -1) * upstream[part]
            torch.index_select(scaled.flatten(1).to(ctx.dtype), 1, ctx.place, out=result[part])
        return result, *[None] * 5


def _parts(rows: int, columns: int, chunk: int) -> list[slice]:
    """Slices of rows that hold about ``chunk`` elements."""
    step = min(rows, max(1, chunk // max(columns, 1)))
    return [slice(first, min(first + step, rows)) for first in range(0, rows, step)]


class _Sides:
    """Which blocks are of an image's own camera, [R, blocks], and buffers [R, P] to work in.

    Pairs are (own camera, other cameras): [R, 2].
    """

    def __init__(self, same: Tensor, work: Tensor) -> None:
        self.same, self.work = same, work
        self.both = torch.stack([same, ~same], dim=1)  # [R, 2, blocks]

    def blocks(self, x: Tensor) -> Tensor:
        """A view [R, blocks, width] of [R, P]."""
        return x.view(*self.same.shape, -1)

    def spread(self, pair: Tensor) -> Tensor:
        """Each block's number, [R, blocks, 1]."""
        return torch.where(self.same, pair[:, :1], pair[:, 1:])[..., None]

    def sums(self, x: Tensor) -> Tensor:
        return (self.blocks(x).sum(2)[:, None] * self.both).sum(2)

    def largest(self, x: Tensor) -> Tensor:
        """About -FAR on a side without columns."""
        return self.blocks(x).amax(2)[:, None].where(self.both, -FAR).amax(2)


def _loss_and_grad(
    similarity: Tensor,
    own: Tensor,
    sides: _Sides,
    settings: tuple[float, float, float],
    grad: Tensor,
    needs_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Losses [R, 2] and neighbour counts [R, 2] of rows ``similarity`` [R, P] with own columns [R, 1].

    ``grad`` [R, P] is a buffer; with ``needs_grad`` it ends as d loss / d similarity without the factor ``scale``.
    """
    scale, eps, log_floor = settings
    blocks, spread = sides.blocks, sides.spread
    near, buffer = sides.work[1], sides.work[2]
    own_similarity = similarity.gather(1, own)
    largest = sides.largest(similarity.scatter_(1, own, -FAR))
    similarity.scatter_(1, own, own_similarity)
    # Columns that are no candidates stand in the maximum as -1, as in the original; they are never neighbours.
    edge = eps * largest.clamp_min(-1.0)

    def above(edge: Tensor) -> Tensor:  # [R, 2]; near [R, P] is 1 or 0
        torch.gt(blocks(similarity), spread(edge), out=blocks(near))
        return sides.sums(near.scatter_(1, own, 0.0))

    count = above(edge)
    top = largest.where(largest > -FAR / 2, 0.0)
    top[:, :1] = torch.maximum(largest[:, :1], own_similarity)
    torch.add(spread(-scale * top), blocks(similarity), alpha=scale, out=blocks(grad)).exp_()
    total = sides.sums(grad).clamp_min(0.5)  # 1 or more where the side has columns
    log_total = scale * top + total.log()  # log p = scale similarity - log_total, of each side's own softmax
    own_log_p = scale * own_similarity - log_total[:, :1]
    # neighbours that are not below the floor
    active = count if log_floor == -math.inf else above(edge.maximum((log_floor + log_total) / scale))
    weight = 1 / count.clamp_min(1)  # w_ij of neighbours
    below = (count - active) * max(log_floor, -FAR)
    loss = -weight * (
        scale * sides.sums(torch.mul(near, similarity, out=buffer)) - active * log_total + below
    )
    loss[:, :1] -= own_log_p.clamp_min(log_floor)

    if needs_grad:
        own_weight = (own_log_p >= log_floor).to(similarity.dtype)
        share = active * weight
        share[:, :1] += own_weight
        blocks(grad).mul_(spread(share / total)).addcmul_(blocks(near), spread(weight), value=-1)
        grad.scatter_(1, own, grad.gather(1, own) - own_weight)
    return loss, count
