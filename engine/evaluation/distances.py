"""Similarities of features, a block of queries at a time.

Every product has one of a fixed grid of tile shapes, whatever the memory allowed, the number of ranks or the block:
on one device with one number of threads a pair of images always gets the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from crossreid.engine.evaluation.features import FeatureMatrix, duplicates

BLOCKS = 8  # of rows at least, where each pair counts once: fewer need memory, more need bookkeeping


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


def blocks(
    queries: FeatureMatrix,
    gallery: FeatureMatrix,
    *,
    metric: str,
    comparable: bool = False,
    chunk_mb: float = 256,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Scores against the whole gallery, larger is nearer, a block of queries after the other.

    Args:
        metric: ``cosine`` (of unit rows), or ``euclidean``: minus the squared distance.
        comparable: between queries, too. Without it each query has a scale (cosine) or an offset (Euclidean) of its
            own: the same ranking with one rounding less.
        chunk_mb: MiB of a block; it holds at least one tile's queries.
        start: first query, a multiple of the tile height.

    Yields:
        First query of the block and its scores [q, G], in a buffer reused by the next block.
    """
    stop = len(queries) if stop is None else stop
    size = 8 if gallery.dtype == torch.float64 else 4
    tiles = max(1, int(chunk_mb * 2**20 / (size * len(gallery) * queries.tile_rows)))
    step = max(1, min(tiles * queries.tile_rows, stop - start))
    later, first = duplicates(gallery)
    out = torch.empty(step, len(gallery), dtype=gallery.dtype, device=gallery.device)
    for left in range(start, stop, step):
        block = out[: min(step, stop - left)]
        with full_precision(gallery.device):
            _fill(block, queries, gallery, left, metric, comparable)
        if len(later):
            block[:, later] = block[:, first]
        yield left, block


def pair_blocks(
    points: FeatureMatrix,
    copies: tuple[torch.Tensor, torch.Tensor],
    *,
    chunk_mb: float,
    start: int = 0,
    stop: int | None = None,
    share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Minus the squared distances of all pairs of points, each pair once (twice near the diagonal).

    Args:
        copies: ``duplicates`` of the points. If there are any, all points are columns of every block, and copies
            have equal columns.
        chunk_mb: MiB of a block at most; it holds at least one tile's rows.
        start, stop: rows wanted, ``start`` a multiple of the tile height; the last block may hold more.
        share: (i, n): every n-th block, from the i-th on.

    Yields:
        First point of the block's rows, first point of its columns (not after the former; they go on to the last
        point), and the block [r, c], in a buffer reused by the next one. Where there are no copies, entries left of
        the diagonal may be unset. No number depends on ``chunk_mb``.
    """
    count, tile = len(points), points.tile_rows
    stop = count if stop is None else min(count, -(-stop // tile) * tile)
    size = 8 if points.dtype == torch.float64 else 4
    most = min(chunk_mb * 2**20 / (size * count), count / BLOCKS)
    unit = points.tile_columns if most >= points.tile_columns else tile
    step = max(1, int(most / unit)) * unit
    out = torch.empty(min(step, count) * count, dtype=points.dtype, device=points.device)
    for first in range(start + share[0] * step, stop, share[1] * step):
        left = 0 if len(copies[0]) else first // points.tile_columns * points.tile_columns
        rows = min(step, stop - first)
        block = out[: rows * (count - left)].view(rows, count - left)
        with full_precision(points.device):
            _fill(block, points, points, first, "euclidean", True, left, not len(copies[0]))
        if len(copies[0]):
            block[:, copies[0]] = block[:, copies[1]]
        yield first, left, block


def _fill(
    block: torch.Tensor,
    queries: FeatureMatrix,
    gallery: FeatureMatrix,
    start: int,
    metric: str,
    comparable: bool,
    first_column: int = 0,
    upper: bool = False,
) -> None:
    """Fill a block of scores; ``upper``: a tile's rows only from the first of them on among the columns."""
    own, euclidean = queries.raw(start, start + len(block)), metric == "euclidean"  # [q, D]
    if euclidean or (comparable and queries.scale is not None):
        own = own * _factors(queries, start, len(block), 2 if euclidean else 1)
    space = torch.empty(queries.tile_rows * gallery.tile_columns, dtype=block.dtype, device=block.device)
    for left in reversed(range(first_column, len(gallery), gallery.tile_columns)):
        right = min(left + gallery.tile_columns, len(gallery))
        others = gallery.raw(left, right)  # [c, D]
        for top in range(start, start + len(block), queries.tile_rows):
            bottom = min(top + queries.tile_rows, start + len(block))
            here = max(left, top) if upper else left
            if right <= here:
                continue
            target = block[top - start : bottom - start, here - first_column : right - first_column]
            tile = space[: target.numel()].view_as(target)  # mm into distant rows takes a fifth longer
            torch.mm(own[top - start : bottom - start], others[here - left :].T, out=tile)
            if gallery.scale is not None:
                tile.mul_(gallery.scale[here:right])
            if euclidean:
                tile.sub_(gallery.squares[here:right])
            if euclidean and comparable:
                torch.sub(tile, queries.squares[top:bottom, None], out=target)
            else:
                target.copy_(tile)


def _factors(queries: FeatureMatrix, start: int, count: int, factor: int) -> torch.Tensor | int:
    return factor if queries.scale is None else factor * queries.scale[start : start + count, None]
