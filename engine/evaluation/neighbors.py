"""Nearest neighbours by chunked matrix products, and query expansion with them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from crossreid.engine.distributed import ALONE, Ranks
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.distances import blocks, pair_blocks
from crossreid.engine.evaluation.features import FeatureMatrix, duplicates
from crossreid.engine.log import progress_bar

FEW = 0.1  # share of scores that enter a list, below which they are picked out of the others


def stable_topk(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Columns of the k largest entries of each row [q, k], rising; of equal entries the leftmost are chosen."""
    values, columns = scores.topk(min(k + 1, scores.shape[1]))
    if k < values.shape[1]:
        tie = (values[:, k - 1] == values[:, k]) & (values[:, k] > -torch.inf)  # at the end of the list
        for row in tie.nonzero().flatten().tolist():
            last = values[row, k - 1]
            above = int((values[row] > last).sum())
            columns[row, above:k] = (scores[row] == last).nonzero().flatten()[: k - above]
    return columns[:, :k].sort(dim=1)[0]


def largest(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest entries of each row, in falling order; of equal ones the leftmost first.

    Args:
        scores: [q, G], k <= G.

    Returns:
        Values and columns [q, k].
    """
    columns = stable_topk(scores, k)
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def expand(
    queries: FeatureMatrix, gallery: FeatureMatrix, count: int, *, metric: str, chunk_mb: float = 256
) -> FeatureMatrix:
    """Average query expansion: each query becomes the mean of itself and its nearest gallery images.

    Identities and cameras play no part. With the cosine metric, L2-normalised vectors are averaged.

    Args:
        count: gallery features averaged into each query; 0: off.

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
    return FeatureMatrix(torch.cat(expanded), unit=queries.scale is not None, dtype=queries.dtype)


def nearest_points(
    points: FeatureMatrix,
    count: int,
    *,
    chunk_mb: float = 256,
    ranks: Ranks = ALONE,
    corner: torch.Tensor | None = None,
    progress: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each point's nearest points by Euclidean distance, itself first, and the distance of its farthest point.

    Args:
        points: N.
        count: neighbours wanted, the point itself included; at most N.
        ranks: they share the points; all get the whole result.
        corner: [q, g], receives minus the squared distances of the first q to the last g points, q + g = N.

    Returns:
        Indices [N, count] int64 and squared distances [N], on the CPU.
    """
    copies, found = duplicates(points), Nearest(points, count)
    bar, symmetric = (
        progress_bar(len(points), "re-ranking, nearest neighbours", enabled=progress),
        not len(copies[0]),
    )
    pairs = pair_blocks(points, copies, chunk_mb=chunk_mb, share=(ranks.rank, ranks.world))
    for first, left, block in pairs:
        own = torch.arange(len(block), device=block.device)
        if corner is not None and first < len(corner):
            part = corner[first : first + len(block)]
            part.copy_(block[: len(part), -corner.shape[1] :])
        found.see_farthest(first, left, block, symmetric=symmetric)
        block[own, first - left + own] = torch.inf  # an exact copy may not come before the point itself
        found.see(first, left, block, symmetric=symmetric)
        bar.update(len(block))
    bar.close()
    return found.joined(ranks)


def approximate_points(points: FeatureMatrix, count: int) -> torch.Tensor:
    """Each point's nearest points, itself first, by an inverted file of faiss: some true neighbours may be missed.

    Args:
        count: neighbours wanted, the point itself included; at most N.

    Returns:
        Indices [N, count] int64 on the CPU.

    Raises:
        InputError: faiss is not installed.

    Source: Johnson et al., IEEE Trans. Big Data 2021.
    """
    try:
        import faiss
    except ImportError:
        raise InputError("the index faiss needs a package: pip install faiss-cpu, or choose exact") from None
    size, dim = len(points), points.raw(0, 1).shape[1]
    cells = max(1, int(size**0.5))
    lists = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, cells)
    pieces = torch.arange(size).split(4096)
    lists.train(points[torch.linspace(0, size - 1, min(size, 64 * cells)).long()].float().cpu().numpy())
    for rows in pieces:
        lists.add(points[rows].float().cpu().numpy())
    result = []
    for rows in pieces:
        vectors = points[rows].float().cpu().numpy()
        lists.nprobe = min(cells, max(16, cells // 16))
        near = lists.search(vectors, count)[1]
        few = (near < 0).any(1)  # less than ``count`` points in the cells that were looked at
        if few.any():
            lists.nprobe = cells
            near[few] = lists.search(vectors[few], count)[1]
        index = torch.from_numpy(near)
        others = (
            (index == rows[:, None]).long().sort(dim=1, stable=True)[1]
        )  # the point itself goes to the end
        result.append(torch.cat([rows[:, None], index.gather(1, others)[:, : count - 1]], 1))
    return torch.cat(result)


def _few(mask: torch.Tensor) -> torch.Tensor | None:
    """Where a mask is true, counted row by row, or None where it often is.

    On the CPU NumPy finds the few of many five times faster.
    """
    most = FEW * mask.numel()
    if mask.device.type == "cpu":
        few = np.count_nonzero(mask.numpy()) <= most
        return torch.from_numpy(np.flatnonzero(mask.numpy())) if few else None
    places = mask.flatten().nonzero().flatten()
    return places if len(places) <= most else None


class Nearest:
    """The nearest points of each point among those seen so far, in the order of the points.

    Args:
        count: K, how many to keep.
    """

    def __init__(self, points: FeatureMatrix, count: int) -> None:
        size, dtype, device = (len(points), count), points.dtype, points.device
        self.scores = torch.full(size, -torch.inf, dtype=dtype, device=device)  # minus the squared distance
        self.index = torch.zeros(size, dtype=torch.int64, device=device)
        self.farthest = torch.zeros(len(points), dtype=dtype, device=device)
        self.rows, self.columns = points.tile_rows, 4 * points.tile_columns  # looked at together

    def see_farthest(self, first: int, left: int, block: torch.Tensor, *, symmetric: bool) -> None:
        """Note the largest distances of a block, see ``see``."""
        for top, strip in self._strips(first, left, block, symmetric):
            self._farther(slice(top, top + len(strip)), strip)
            if symmetric:
                self._farther(slice(top, None), strip.T)

    def _farther(self, rows: slice, block: torch.Tensor) -> None:
        part = self.farthest[rows]
        torch.maximum(part, block.amin(1).neg_(), out=part)

    def _strips(
        self, first: int, left: int, block: torch.Tensor, symmetric: bool
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Some rows of a block at a time, without the columns before their own if they are ``symmetric``."""
        for top in range(0, len(block), self.rows):
            yield first + top, block[top : top + self.rows, first + top - left if symmetric else 0 :]

    def see(self, first: int, left: int, block: torch.Tensor, *, symmetric: bool) -> None:
        """Let points see each other.

        Args:
            first, left: number of the first point in the rows, and of the first in the columns, which go on to the
                last point.
            block: [r, c] scores; -inf hides a pair.
            symmetric: the points after a row's own see it, too; what stands before the own is not read.
        """
        bottom = first + len(block)
        for top, strip in self._strips(first, left, block, symmetric):
            self.add_some(slice(top, top + len(strip)), strip, top if symmetric else left)
            if symmetric:  # of the first block all, so that lists fill
                later = strip[:, len(strip) : None if first == 0 else bottom - top]
                self.add_later(top + len(strip), later, top)
        if symmetric and first:
            self.add_later(bottom, block[:, bottom - left :], first)

    def add(self, rows: slice | torch.Tensor, block: torch.Tensor, first: int) -> None:
        """Let some points see points that come after all that they have seen: scores [r, c], the first's number."""
        columns = stable_topk(block, min(self.index.shape[1], block.shape[1]))
        self._merge(rows, block.gather(1, columns), columns + first)

    def add_some(self, rows: slice, block: torch.Tensor, first: int) -> None:
        """As ``add``, quicker where few points are near enough to enter a list."""
        nearer = _few(block > self.scores[rows].amin(1, keepdim=True))  # than the last of each list
        if nearer is None:
            self.add(rows, block, first)
        elif len(nearer):
            row, column = nearer // block.shape[1], nearer % block.shape[1]
            self._add_listed(row + rows.start, column + first, block[row, column])

    def add_later(self, start: int, block: torch.Tensor, first: int) -> None:
        """Let the points from ``start`` on see a block's rows: scores [r, c] and the number of the first row."""
        for left in range(0, block.shape[1], self.columns):
            part = block[:, left : left + self.columns]
            rows = slice(start + left, start + left + part.shape[1])
            nearer = _few(part > self.scores[rows].amin(1))
            if nearer is None:
                self.add(rows, part.T.contiguous(), first)
            elif len(nearer):
                row, column = nearer // part.shape[1], nearer % part.shape[1]
                column, order = column.sort(stable=True)  # the rows of a column stay in order
                row = row[order]
                self._add_listed(column + rows.start, row + first, part[row, column])

    def _add_listed(self, points: torch.Tensor, seen: torch.Tensor, scores: torch.Tensor) -> None:
        """Let points [n], rising, see one point each [n], rising for each of them, with these scores [n]."""
        points, counts = points.unique_consecutive(return_counts=True)
        group = torch.arange(len(points), device=points.device).repeat_interleave(counts)
        place = torch.arange(len(seen), device=points.device) - (counts.cumsum(0) - counts)[group]
        shape = len(points), int(counts.max())
        table = torch.full(shape, -torch.inf, dtype=scores.dtype, device=scores.device)
        index = torch.zeros(shape, dtype=torch.int64, device=scores.device)
        table[group, place], index[group, place] = scores, seen
        self._merge(points, table, index)

    def _merge(self, rows: slice | torch.Tensor, scores: torch.Tensor, index: torch.Tensor) -> None:
        """Put later points into the lists of some points: scores and numbers [r, c], numbers rising in a row."""
        scores = torch.cat([self.scores[rows], scores], dim=1)
        index = torch.cat([self.index[rows], index], dim=1)
        kept = stable_topk(scores, self.index.shape[1])  # of equal scores the first point's
        self.scores[rows], self.index[rows] = scores.gather(1, kept), index.gather(1, kept)

    def joined(self, ranks: Ranks) -> tuple[torch.Tensor, torch.Tensor]:
        """What all ranks have seen together; points [N, K], the nearest first, and squared distances [N]."""
        scores, index = ranks.stack(self.scores), ranks.stack(self.index)  # [ranks, N, K]
        scores, index = (x.movedim(0, 1).flatten(1) for x in (scores, index))
        index, order = index.sort(dim=1, stable=True)
        nearest = largest(scores.gather(1, order), self.index.shape[1])[1]
        farthest = ranks.stack(self.farthest).amax(0)
        return index.gather(1, nearest).cpu(), farthest.clamp_min(0).double().cpu()


def squared_distances(
    points: FeatureMatrix, one: torch.Tensor, other: torch.Tensor, *, progress: bool = False
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
    bar = progress_bar(len(one), "re-ranking, distances of neighbours", enabled=progress)
    result = torch.empty(len(one), dtype=points.dtype)
    for a, b, part in zip(one.split(size), other.split(size), result.split(size)):
        few, place = a.unique_consecutive(return_inverse=True)  # one point in many pairs
        first = points[few].index_select(0, place.to(points.device))
        part.copy_(points[b].sub_(first).square_().sum(1))
        bar.update(size)
    bar.close()
    return result
