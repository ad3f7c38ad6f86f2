"""Feature vectors of a split with their labels, checked before they are scored, and their rows for products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.metrics import Labels

Array = np.ndarray
Integers: TypeAlias = torch.Tensor | NDArray[Any] | Sequence[int]  # [N] labels or cameras
METRICS = ("cosine", "euclidean")
TILES = {"cpu": (512, 1024), "cuda": (1024, 8192)}  # queries x gallery images of one product


@dataclass
class Features:
    """Feature vectors of a split with what is known of its images.

    Args:
        vectors: [N, D], any floating type.
        pids: [N] identities; in a gallery -1 is junk and is dropped, 0 is an ordinary identity.
        cams: [N] cameras.
        paths: [N] of the images, for messages and pictures.
    """

    vectors: torch.Tensor
    pids: torch.Tensor
    cams: torch.Tensor
    paths: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True)
class Prepared:
    """Checked features, the gallery without junk, ready to be scored."""

    query: FeatureMatrix
    gallery: FeatureMatrix
    labels: Labels


def prepare(
    query: Features,
    gallery: Features,
    *,
    metric: str,
    normalize: bool = False,
    device: torch.device | str | None = None,
) -> Prepared:
    """Check both sets and drop the junk of the gallery.

    Args:
        normalize: vectors count as if brought to length 1, as they always do with the cosine metric.

    Raises:
        InputError: whatever does not fit, in one line.
    """
    if metric not in METRICS:
        raise InputError(f"metric {metric!r} does not exist: choose {' or '.join(METRICS)}")
    check_sets(query, gallery)
    real = gallery.pids != -1
    keep = None if bool(real.all()) else real.nonzero().flatten()
    device = gallery.vectors.device if device is None else device
    dtype = product_type(device, query.vectors, gallery.vectors)
    unit = normalize or metric == "cosine"
    rows = [
        FeatureMatrix(
            features.vectors, unit=unit, keep=kept, name=_namer(name, features), device=device, dtype=dtype
        )
        for name, features, kept in (("query", query, None), ("gallery", gallery, keep))
    ]
    labels = Labels(_labels(query, slice(None)), _labels(gallery, slice(None) if keep is None else keep))
    return Prepared(rows[0], rows[1], labels)


def check_sets(query: Features, gallery: Features) -> None:
    """Raise InputError where query and gallery are empty or do not fit each other or their labels."""
    for name, features in (("query", query), ("gallery", gallery)):
        shape = tuple(features.vectors.shape)
        if len(shape) != 2 or not features.vectors.is_floating_point() or 0 in shape:
            raise InputError(
                f"{name} features are {features.vectors.dtype} {shape}: need floating [N, D], N and D >= 1"
            )
        if not len(features.pids) == len(features.cams) == shape[0]:
            raise InputError(
                f"{name}: {shape[0]} features, but {len(features.pids)} identities and {len(features.cams)} cameras"
            )
    if query.vectors.shape[1] != gallery.vectors.shape[1]:
        raise InputError(
            f"query features have {query.vectors.shape[1]} dimensions, gallery features "
            f"{gallery.vectors.shape[1]}: extract both with one model"
        )


def _namer(split: str, features: Features) -> Callable[[int], str]:
    return lambda row: f"{split} image {row}" + (f" ({features.paths[row]})" if features.paths else "")


def _labels(features: Features, keep: slice | torch.Tensor) -> tuple[Array, Array]:
    return features.pids[keep].cpu().numpy(), features.cams[keep].cpu().numpy()


def product_type(device: torch.device | str, *parts: torch.Tensor) -> torch.dtype:
    """float64 features stay float64 on the CPU; everything else is computed in float32."""
    double = torch.device(device).type == "cpu" and all(part.dtype == torch.float64 for part in parts)
    return torch.float64 if double else torch.float32


class FeatureMatrix:
    """Rows of feature matrices one below the other, handed out in the computing type on the computing device.

    Nothing is copied as a whole.

    Args:
        parts: one or more matrices [n, D].
        unit: the rows count as if brought to length 1 (zero rows stay zero).
        keep: rows to keep, ascending; None keeps all.
        name: of the image in a row of the parts, for error messages.
        device: where the products are computed; None: where the first part lies.
        dtype: of the products, see ``product_type``.

    Attributes:
        scale: [N] one over the length of each row as stored, if unit.
        squares: [N] squared lengths.

    Raises:
        InputError: a row with NaN or infinite values.
    """

    def __init__(
        self,
        *parts: torch.Tensor,
        unit: bool = False,
        keep: torch.Tensor | None = None,
        name: Callable[[int], str] = "row {}".format,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.parts = [part.detach() for part in parts]
        self.starts = [sum(map(len, parts[:i])) for i in range(len(parts))]
        self.keep = None if keep is None else keep.to(parts[0].device)
        self.device = torch.device(device) if device is not None else parts[0].device
        self.dtype = dtype
        self.tile_rows, self.tile_columns = TILES.get(self.device.type, TILES["cuda"])
        self.squares = torch.cat(
            [self.raw(a, a + 512).square().sum(1) for a in range(0, max(len(self), 1), 512)]
        )
        wrong = (~self.squares.isfinite()).nonzero().flatten().tolist()
        if wrong:
            row = wrong[0] if self.keep is None else int(self.keep[wrong[0]])
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise InputError(
                f"features of {name(row)}{more} are NaN, infinite or above 1e18: "
                "check the weights, or extract in float32"
            )
        self.scale = torch.where(self.squares > 0, self.squares.rsqrt(), 0) if unit else None
        if unit:
            self.squares = (self.squares > 0).to(dtype)

    def __len__(self) -> int:
        return sum(map(len, self.parts)) if self.keep is None else len(self.keep)

    def concat(self, other: FeatureMatrix) -> FeatureMatrix:
        """These rows and, below them, other rows of the same kind."""
        keep = None
        if self.keep is not None or other.keep is not None:
            first, second = (
                torch.arange(sum(map(len, r.parts))) if r.keep is None else r.keep for r in (self, other)
            )
            keep = torch.cat([first, second.to(first.device) + sum(map(len, self.parts))])
        unit = self.scale is not None
        return FeatureMatrix(
            *self.parts, *other.parts, unit=unit, keep=keep, device=self.device, dtype=self.dtype
        )

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        """Chosen rows [n, D]."""
        rows = self._take(index)
        return rows if self.scale is None else rows.mul_(self.scale[index][:, None])

    def raw(self, first: int, last: int) -> torch.Tensor:
        """Rows of a range, of whatever length they are stored [n, D]."""
        last = min(last, len(self))
        if self.keep is not None:
            return self._take(torch.arange(first, last))
        pieces, start = [], 0
        for part in self.parts:
            piece = part[max(first - start, 0) : max(last - start, 0)]
            if len(piece) or len(self.parts) == 1:
                pieces.append(piece.to(self.device, self.dtype))
            start += len(part)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _take(self, index: torch.Tensor) -> torch.Tensor:
        index = index.to(self.parts[0].device)
        index = index if self.keep is None else self.keep[index]
        if len(self.parts) == 1:
            return self.parts[0].index_select(0, index).to(self.device, self.dtype)
        start = self.starts[-1]
        out = self.parts[-1].index_select(0, (index - start).clamp_min_(0)).to(self.device, self.dtype)
        for part, start in zip(self.parts[-2::-1], self.starts[-2::-1]):  # most rows are of the last part
            here = ((index >= start) & (index < start + part.shape[0])).nonzero().flatten()
            if here.shape[0]:
                rows = part.index_select(0, index[here] - start).to(self.device, self.dtype)
                out.index_copy_(0, here.to(self.device), rows)
        return out


def duplicates(rows: FeatureMatrix) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that repeat an earlier row bit for bit, and the first row of their kind.

    A matrix product may round equal rows differently at the edge of a tile; with these lists they are made equal.

    Returns:
        Two indices [n]: the repetitions, and for each the first row equal to it.
    """
    head = torch.cat([_hashes(rows.raw(a, a + 4096)[:, :32]) for a in range(0, len(rows), 4096)])
    _, group, size = head.unique(return_inverse=True, return_counts=True)
    maybe = (size[group] > 1).nonzero().flatten()  # a few, as a rule
    if not len(maybe):
        return maybe, maybe
    whole = torch.cat([_hashes(rows[part]) for part in maybe.split(4096)])
    _, group = whole.unique(return_inverse=True)
    first = torch.full((len(maybe),), len(rows), device=maybe.device)
    first = first.scatter_reduce(0, group, maybe, "amin")[group]
    later = first < maybe
    maybe, first = maybe[later], first[later]
    same = [(rows[a] == rows[b]).all(1) for a, b in zip(maybe.split(4096), first.split(4096))]
    equal = torch.cat(same) if same else later[:0]
    return maybe[equal], first[equal]


def _hashes(values: torch.Tensor) -> torch.Tensor:
    """A 64-bit number for each row [n, D]; exact integer sums, so that equal rows always agree."""
    bits = (values + 0.0).view(torch.int64 if values.dtype == torch.float64 else torch.int32).long()
    weights = torch.randint(
        -(2**62), 2**62, (bits.shape[1],), generator=torch.Generator().manual_seed(0), dtype=torch.int64
    )
    return ((bits ^ (bits >> 15)) * (2 * weights.to(bits.device) + 1)).sum(1)
