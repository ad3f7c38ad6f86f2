"""Memories: one row an image, an identity or a cluster, moved by an explicit ``update`` and never by the
optimizer.

Everywhere ``keep`` is the weight of the OLD row (what some papers call momentum, others one minus momentum).
Call ``update`` after ``backward``: the similarity's graph reads the rows as they were. Keep memories out of
DistributedDataParallel: their own update gathers the features of all ranks, so that every rank holds the same
    bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from crossreid.modeling.errors import ModelError

HALF = (torch.float16, torch.bfloat16)


class FeatureMemory(nn.Module):
    """Bank of unit rows.

    Args:
        num_rows: N.
        dim: D.
        dtype: float32; float16 halves the bank at 10^6 rows. Its similarity is then a half-precision product
            (about 5e-4 off), its update is computed in float32 and rounded once.
    """

    features: Tensor  # [N, D]

    def __init__(self, num_rows: int, dim: int, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if num_rows < 1 or dim < 1:
            raise ModelError(f"a memory of {num_rows} rows of {dim} numbers; both must be at least 1")
        self.register_buffer("features", torch.zeros(num_rows, dim, dtype=dtype))

    def similarity(self, features: Tensor) -> Tensor:
        """Inner product of every feature with every row.

        Args:
            features: [B, D].

        Returns:
            [B, N] in the type of the features, at least float32, under autocast too. The gradient goes to the
            features alone.
        """
        bank = self.features.detach()
        with torch.autocast(features.device.type, enabled=False):
            if bank.dtype in HALF:
                scores: Tensor = _HalfSimilarity.apply(features, bank)  # type: ignore[no-untyped-call]
                return scores
            dtype = torch.promote_types(features.dtype, bank.dtype)
            return features.to(dtype) @ bank.to(dtype).T

    @torch.no_grad()
    def update(
        self,
        features: Tensor,
        index: Tensor,
        *,
        keep: float,
        hardest: bool = False,
        mean: bool = False,
        rounds: int | None = None,
    ) -> None:
        """Move rows towards the batch's features: ``m <- normalise(keep m + (1 - keep) f)``.

        Rows that occur several times are moved several times, in batch order. With several ranks the batch is
        that of all ranks joined in rank order; every rank must call with the same batch size.

        Args:
            features: [B, D], taken as given (normalise before if the method says so); no graph is kept.
            index: [B] row of each feature, 0..N-1; not checked on the device.
            keep: weight of the old row, 0..1; 0 overwrites.
            hardest: move each row once, with the feature of the batch least similar to the old row; the first
                on a tie.
            mean: move each row once, with the mean of its features in the batch.
            rounds: how often a row occurs in the joined batch at most, if that is known (1 for one image an
                index on one rank); later occurrences are left out. None counts, for which the host waits on a
                GPU.

        Raises:
            ModelError: ``keep`` outside 0..1, or shapes that do not fit.
        """
        check(features, index, keep, (len(features), self.features.shape[1]))
        features, index = joined(features, index)
        dtype = torch.promote_types(_raised_type(self.features), features.dtype)
        old, new = self.features[index].to(dtype), features.to(dtype)  # [B, D]
        if hardest:
            rows = _hardest(old, new, index, keep)
        elif mean:
            rows = _mean(old, new, index, keep)
        else:
            rows = _in_order(old, new, index, keep, rounds, _unit)
        self.features.index_copy_(0, index, rows.to(self.features.dtype))


class PatchMemory(nn.Module):
    """Bank of running means, K patches a row; rows are never normalised.

    Args:
        num_rows: N.
        patches: K.
        dim: D.
        begin: rows begin at their first update, which overwrites them whatever its ``keep``; ``visited`` tells which
            have begun.
    """

    features: Tensor  # [K, N, D]
    visited: Tensor | None  # [N]

    def __init__(
        self,
        num_rows: int,
        patches: int,
        dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        begin: bool = False,
    ) -> None:
        super().__init__()
        if min(num_rows, patches, dim) < 1:
            raise ModelError(
                f"a memory of {num_rows} rows, {patches} patches, {dim} numbers; all must be at least 1"
            )
        self.register_buffer("features", torch.zeros(patches, num_rows, dim, dtype=dtype))
        self.register_buffer("visited", torch.zeros(num_rows, dtype=torch.bool) if begin else None)

    @torch.no_grad()
    def update(self, features: Tensor, index: Tensor, *, keep: float, rounds: int | None = None) -> None:
        """Move rows towards the batch's features: ``c <- keep c + (1 - keep) f``, in batch order for repeated
        rows.

        With several ranks the batch is that of all ranks joined in rank order.

        Args:
            features: [K, B, D]; no graph is kept.
            index: [B] row of each image, 0..N-1; not checked on the device.
            keep: weight of the old row, 0..1; 0 overwrites, which is how the memory is filled.
            rounds: as in :meth:`FeatureMemory.update`.

        Raises:
            ModelError: ``keep`` outside 0..1, or shapes that do not fit.
        """
        patches, _, dim = self.features.shape
        check(features, index, keep, (patches, len(index), dim))
        new, index = joined(features.transpose(0, 1).flatten(1), index)  # [B, K D]
        dtype = torch.promote_types(_raised_type(self.features), new.dtype)
        old = self.features[:, index].transpose(0, 1).flatten(1).to(dtype)  # [B, K D]
        new = new.to(dtype)
        if self.visited is not None:
            old = torch.where(self.visited[index][:, None], old, new)
            self.visited.index_fill_(0, index, True)
        rows = _in_order(old, new, index, keep, rounds, _as_is).view(-1, patches, dim)
        self.features.index_copy_(1, index, rows.transpose(0, 1).to(self.features.dtype))


def _in_order(
    old: Tensor,
    new: Tensor,
    index: Tensor,
    keep: float,
    rounds: int | None,
    finish: Callable[[Tensor], Tensor],
) -> Tensor:
    """Row of each batch element after all updates of that row, [B, D]."""
    return one_by_one(old, new, index, rounds, lambda row, x: finish(keep * row + (1 - keep) * x))


def one_by_one(
    old: Tensor, new: Tensor, index: Tensor, rounds: int | None, move: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """State [B, S] of each element's row after all its moves; the k-th occurrences of all rows move together."""
    same = index[:, None] == index  # [B, B]
    earlier = same.tril(-1)
    turn = earlier.sum(dim=1)  # [B] 0 for the first occurrence of a row
    if rounds is None:
        rounds = int(turn.max()) + 1 if len(index) else 1
    position = torch.arange(len(index), device=index.device)
    before = torch.where(earlier, position, -1).amax(dim=1).clamp_min(0)  # [B] the occurrence before
    row = move(old, new)
    for k in range(1, rounds):
        moved = move(row[before], new)
        row = torch.where((turn == k)[:, None], moved, row)
    last = torch.where(same & (turn < rounds), position, -1).amax(dim=1)
    return row[last]  # the same bytes for every element of a row: the write has no order


def _hardest(old: Tensor, new: Tensor, index: Tensor, keep: float) -> Tensor:
    """Row of each batch element after one update with the row's hardest feature, [B, D]."""
    similarity = (old * new).sum(dim=1).nan_to_num(nan=-torch.inf)  # [B]
    same = index[:, None] == index  # [B, B]
    lowest = torch.where(same, similarity, torch.inf).amin(dim=1, keepdim=True)
    position = torch.arange(len(index), device=index.device)
    first = torch.where(same & (similarity == lowest), position, len(index)).amin(dim=1)
    return _unit(keep * old + (1 - keep) * new)[first]


def _mean(old: Tensor, new: Tensor, index: Tensor, keep: float) -> Tensor:
    """Row of each batch element after one update with the mean of the row's features, [B, D]."""
    same = index[:, None] == index  # [B, B]
    mean = same.to(new.dtype) @ new / same.sum(dim=1, keepdim=True)
    position = torch.arange(len(index), device=index.device)
    first = torch.where(same, position, len(index)).amin(dim=1)
    return _unit(keep * old + (1 - keep) * mean)[first]


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(rows, dim=1)  # a zero row stays zero


def _as_is(rows: Tensor) -> Tensor:
    return rows


def check(features: Tensor, index: Tensor, keep: float, shape: tuple[int, ...]) -> None:
    if not 0 <= keep <= 1:
        raise ModelError(f"memory update with keep {keep}; it is the old row's weight, 0..1")
    if features.shape != shape or index.shape != shape[-2:-1]:
        came = f"features {tuple(features.shape)} with index {tuple(index.shape)}"
        raise ModelError(f"memory update got {came}; it takes features {shape}, index {shape[-2:-1]}")


def _raised_type(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype in HALF else x.dtype


def joined(features: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Features and rows of all ranks in rank order: one collective, carried as bytes."""
    features, index = features.detach(), index.detach().long()
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return features, index
    parts = [features.contiguous().view(torch.uint8), index.contiguous()[:, None].view(torch.uint8)]
    mine = torch.cat(parts, dim=1)  # [B, bytes]
    everyone = mine.new_empty(dist.get_world_size() * len(mine), mine.shape[1])
    dist.all_gather_into_tensor(everyone, mine)
    feature_bytes = parts[0].shape[1]
    return (
        everyone[:, :feature_bytes].contiguous().view(features.dtype),
        everyone[:, feature_bytes:].contiguous().view(torch.int64).squeeze(1),
    )


class _HalfSimilarity(torch.autograd.Function):
    """Product with a half-precision bank; the gradient is scaled into the half's range before its product."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, bank: Tensor) -> Tensor:
        ctx.save_for_backward(bank)
        ctx.dtype = features.dtype
        return (features.to(bank.dtype) @ bank.T).to(_raised_type(features))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (bank,) = ctx.saved_tensors
        # A softmax spreads gradients of the order 1/N over the rows: each line is stretched to a sum of 2^14
        # first, so that neither they vanish in float16 nor the product with unit rows overflows.
        stretch = 2.0**14 / gradient.abs().sum(dim=1, keepdim=True).clamp_min(1e-30)  # [B, 1]
        product = (gradient * stretch).to(bank.dtype) @ bank
        return (product.to(gradient.dtype) / stretch).to(ctx.dtype), None
