"""Nearest neighbours by chunked matrix products, and query expansion with them."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from engine.log import Bar
from engine.shares import ALONE, Shares
from engine.similarity import Rows, blocks


def largest(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest entries of each row, in falling order; of equal ones the leftmost first.

    Args:
        scores: [q, G], k <= G.

    Returns:
        Values and columns [q, k].
    """
    values, columns = scores.topk(min(k + 1, scores.shape[1]))
    columns, order = columns.sort(1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    if k < values.shape[1]:
        for row in (
            (values[:, k - 1] == values[:, k]).nonzero().flatten().tolist()
        ):  # a tie at the end: leftmost in
            last = values[row, k - 1]
            above = int((values[row] > last).sum())
            columns[row, above:k] = (scores[row] == last).nonzero().flatten()[: k - above]
    return values[:, :k], columns[:, :k]


def expand(queries: Rows, gallery: Rows, count: int, *, metric: str, chunk_mb: float = 256) -> Rows:
    """Average query expansion: each query becomes the mean of itself and its nearest gallery images.

    Identities and cameras play no part. With the cosine metric, vectors of length 1 are averaged.

    Args:
        count: gallery images that join the query.

    Returns:
        The expanded queries [Q, D].

    Source: Chum et al., ICCV 2007 (average query expansion).
    """
    count = min(count, len(gallery))
    if not count:
        return queries
    expanded = []
    for start, block in blocks(queries, gallery, metric=metric, chunk_mb=chunk_mb):
        _, nearest = largest(block, count)
        for rows, columns in zip(torch.arange(start, start + len(block)).split(256), nearest.split(256)):
            others = gallery[columns.flatten()].view(*columns.shape, -1)  # [q, count, D]
            expanded.append((queries[rows] + others.sum(1)) / (1 + count))
    return Rows(torch.cat(expanded), unit=queries.scale is not None, dtype=queries.dtype)


def nearest_points(
    points: Rows, count: int, *, chunk_mb: float = 256, shares: Shares = ALONE, progress: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each point's nearest points by Euclidean distance, itself first, and the distance of its farthest point.

    Args:
        points: N.
        count: neighbours wanted, the point itself included; at most N.
        shares: the ranks share the points; all get the whole result.

    Returns:
        Indices [N, count] int64 and squared distances [N], on the CPU.
    """
    index = np.zeros((len(points), count), np.int64)
    farthest = np.zeros(len(points), np.float64)
    start, stop = shares.bounds(len(points), points.tile_rows)
    bar = Bar(stop - start, "re-ranking, nearest neighbours", enabled=progress)
    scores = partial(blocks, metric="euclidean", comparable=True, chunk_mb=chunk_mb, start=start, stop=stop)
    for first, block in scores(points, points) if start < stop else ():
        own = torch.arange(len(block), device=block.device)
        rows = slice(first, first + len(block))
        farthest[rows] = block.amin(1).neg().clamp_min(0).cpu().numpy()
        block[own, first + own] = torch.inf  # an exact copy may not come before the point itself
        index[rows] = largest(block, count)[1].cpu().numpy()
        bar.update(len(block))
    bar.close()
    return torch.from_numpy(shares.total(index)), torch.from_numpy(shares.total(farthest))


def squared_distances(
    points: Rows, one: torch.Tensor, other: torch.Tensor, *, progress: bool = False
) -> torch.Tensor:
    """Squared Euclidean distances of chosen pairs of points, by subtraction.

    Args:
        one, other: [P] indices.

    Returns:
        [P] on the CPU.
    """
    size = (
        256 if points.device.type == "cpu" else 65536
    )  # pairs at a time; on the CPU they fit into the cache
    bar = Bar(len(one), "re-ranking, distances of neighbours", enabled=progress)
    result = torch.empty(len(one), dtype=points.dtype)
    for left in range(0, len(one), size):
        pairs = slice(left, left + size)
        result[pairs] = (points[one[pairs]] - points[other[pairs]]).square().sum(1).cpu()
        bar.update(size)
    bar.close()
    return result
