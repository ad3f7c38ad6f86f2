"""Features as checked rows, and their similarities a block of queries at a time.

Every product has one of a fixed grid of tile shapes, whatever the memory allowed, the number of ranks or the block:
on one device with one number of threads a pair of images always gets the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from engine.errors import InputError

TILES = {"cpu": (512, 1024), "cuda": (1024, 8192)}  # queries x gallery images of one product
METRICS = ("cosine", "euclidean")


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No TF32, no bfloat16 products, no autocast inside; the caller's settings are restored."""
    saved = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(saved)


def product_type(device: torch.device | str, *parts: torch.Tensor) -> torch.dtype:
    """float64 features stay float64 on the CPU; everything else is computed in float32."""
    double = torch.device(device).type == "cpu" and all(part.dtype == torch.float64 for part in parts)
    return torch.float64 if double else torch.float32


class Rows:
    """Rows of feature matrices one below the other, handed out in the computing type on the computing device.

    Nothing is copied as a whole.

    Args:
        parts: one or more matrices [n, D].
        name: of the image in a row of the parts, for error messages.
        keep: rows to keep, ascending; None keeps all.
        device: where the products are computed; None: where the first part lies.
        dtype: of the products, see ``product_type``.

    Raises:
        InputError: a row with NaN or infinite values.
    """

    def __init__(
        self,
        *parts: torch.Tensor,
        name: Callable[[int], str] = "row {}".format,
        keep: torch.Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.parts = [part.detach() for part in parts]
        self.keep = None if keep is None else keep.to(parts[0].device)
        self.device = torch.device(device) if device is not None else parts[0].device
        self.dtype = dtype
        self.tile_rows, self.tile_columns = TILES.get(self.device.type, TILES["cuda"])
        self.squares = torch.cat(  # [N] squared lengths
            [self[a : a + 512].square().sum(1) for a in range(0, max(len(self), 1), 512)]
        )
        wrong = (~self.squares.isfinite()).nonzero().flatten().tolist()
        if wrong:
            row = wrong[0] if self.keep is None else int(self.keep[wrong[0]])
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise InputError(
                f"features of {name(row)}{more} are NaN, infinite or above 1e18: "
                "check the weights, or extract in float32"
            )

    def __len__(self) -> int:
        return sum(map(len, self.parts)) if self.keep is None else len(self.keep)

    def __getitem__(self, index: slice | torch.Tensor) -> torch.Tensor:
        """Rows of a slice with two ends, or of an index [n], as [n, D]."""
        if isinstance(index, slice):
            if self.keep is None:
                return self._slice(index.start, min(index.stop, len(self)))
            index = torch.arange(index.start, min(index.stop, len(self)), device=self.keep.device)
        index = index.to(self.parts[0].device)
        index = index if self.keep is None else self.keep[index]
        if len(self.parts) == 1:
            return self.parts[0][index].to(self.device, self.dtype)
        out = torch.empty(len(index), self.parts[0].shape[1], dtype=self.dtype, device=self.device)
        start = 0
        for part in self.parts:
            here = (index >= start) & (index < start + len(part))
            out[here.to(self.device)] = part[index[here] - start].to(self.device, self.dtype)
            start += len(part)
        return out

    def _slice(self, first: int, last: int) -> torch.Tensor:
        pieces, start = [], 0
        for part in self.parts:
            piece = part[max(first - start, 0) : max(last - start, 0)]
            if len(piece) or len(self.parts) == 1:
                pieces.append(piece.to(self.device, self.dtype))
            start += len(part)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def duplicates(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that repeat an earlier row bit for bit, and the first row of their kind.

    A matrix product may round equal rows differently at the edge of a tile; with these lists they are made equal.

    Returns:
        Two indices [n]: the repetitions, and for each the first row equal to it.
    """
    head = torch.cat([_hashes(rows[a : a + 4096][:, :32]) for a in range(0, len(rows), 4096)])
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


def blocks(
    queries: Rows,
    gallery: Rows,
    *,
    metric: str,
    comparable: bool = False,
    chunk_mb: float = 256,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Scores against the whole gallery, larger is nearer, a block of queries after the other.

    Args:
        metric: ``cosine``, or ``euclidean``: minus the squared distance.
        comparable: between queries, too. Without it each query has a scale (cosine) or an offset (Euclidean) of its
            own: the same ranking with one rounding less.
        chunk_mb: MiB of a block; it holds at least one tile's queries.
        start: first query, a multiple of the tile height.

    Yields:
        First query of the block and its scores [q, G], in memory that the next block takes over.
    """
    stop = len(queries) if stop is None else stop
    size = 8 if gallery.dtype == torch.float64 else 4
    tiles = max(1, int(chunk_mb * 2**20 / (size * len(gallery) * queries.tile_rows)))
    step = max(1, min(tiles * queries.tile_rows, stop - start))
    later, first = duplicates(gallery)
    out = torch.empty(step, len(gallery), dtype=gallery.dtype, device=gallery.device)
    for left in range(start, stop, step):
        block = _scores(queries, gallery, slice(left, min(left + step, stop)), metric, comparable, out)
        if len(later):
            block[:, later] = block[:, first]
        yield left, block


def _scores(
    queries: Rows, gallery: Rows, chosen: slice, metric: str, comparable: bool, out: torch.Tensor
) -> torch.Tensor:
    block, own = queries[chosen], queries.squares[chosen, None]  # [q, D], [q, 1]
    out = out[: len(block)]
    with full_precision(gallery.device):
        for left in range(0, len(gallery), gallery.tile_columns):
            columns = gallery[left : left + gallery.tile_columns].T  # [D, c]
            squares = gallery.squares[left : left + gallery.tile_columns]
            for top in range(0, len(block), queries.tile_rows):
                rows = slice(top, top + queries.tile_rows)
                tile = out[rows, left : left + gallery.tile_columns]
                torch.mm(block[rows], columns, out=tile)
                if metric == "cosine":
                    tile.mul_(inverse_root(squares))
                else:
                    tile.mul_(2).sub_(squares)
                if comparable:
                    tile.mul_(inverse_root(own[rows])) if metric == "cosine" else tile.sub_(own[rows])
    return out


def inverse_root(squares: torch.Tensor) -> torch.Tensor:
    """1 / length; 0 for a zero vector, whose cosine is therefore 0."""
    return torch.where(squares > 0, squares.rsqrt(), 0)
