"""Exact search in an index: one pass over its vectors at the speed of memory, ties as a brute-force loop has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from crossreid.engine.deploy.index import Index
from crossreid.engine.errors import InputError

BLOCK = 2048  # vectors that are scored at a time: they stay in the processor's cache
RERANKED = 1000
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Hit:
    """A gallery photo that was found; ``score`` is the cosine similarity in -1..1."""

    rank: int
    row: int
    path: str
    camera: str
    time: float
    score: float


@dataclass(frozen=True)
class Filter:
    """Which gallery photos count.

    Args:
        cameras: these alone; empty: all.
        exclude: not these.
        start, end: times in start..end (both included); photos without a time do not count where either is given.
    """

    cameras: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    start: float = -math.inf
    end: float = math.inf

    def mask(self, index: Index) -> NDArray[np.bool_] | None:
        """[N] photos that count; None: all.

        Raises:
            InputError: a camera that the index does not have, or nothing left.
        """
        names, columns = index.columns.camera_names, index.columns
        for name in (*self.cameras, *self.exclude):
            if name not in names:
                raise InputError(f"camera {name!r} is not in the index: it has {', '.join(names)}")
        keep = np.ones(len(index), bool)
        if self.cameras:
            keep &= np.isin(columns.cameras, [names.index(name) for name in self.cameras])
        if self.exclude:
            keep &= ~np.isin(columns.cameras, [names.index(name) for name in self.exclude])
        if math.isfinite(self.start) or math.isfinite(self.end):
            with np.errstate(invalid="ignore"):
                keep &= (columns.times >= self.start) & (columns.times <= self.end)
        if not keep.any():
            raise InputError("no photo of the index is left: change the cameras or the times")
        return None if keep.all() else keep


def person(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """One query [D] from several photos [n, D] of a person: the mean of their unit vectors, L2-normalised.

    Raises:
        InputError: no photo.
    """
    if not len(vectors):
        raise InputError("a search needs one photo or more")
    mean = vectors.mean(0, dtype=np.float64)
    return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)


def search(
    index: Index,
    query: NDArray[np.float32],
    *,
    top: int = 10,
    only: Filter | None = None,
    rerank: bool = False,
) -> list[Hit]:
    """The gallery photos nearest to a query.

    Args:
        query: [D], see ``person``.
        top: how many.
        only: which photos count; None: all.
        rerank: order the first 1,000 by k-reciprocal re-ranking; scores stay cosine similarities.

    Returns:
        At most ``top`` hits, the best first, equal scores in the order of the index.

    Raises:
        InputError: a query of another dimension, ``top`` below 1, a filter that leaves nothing.
    """
    if top < 1:
        raise InputError(f"--top {top}: give 1 or more")
    if query.shape != index.vectors.shape[1:]:
        raise InputError(f"the query has shape {query.shape}, the index vectors {index.vectors.shape[1:]}")
    allowed = (only or Filter()).mask(index)
    rows, _ = nearest(index.vectors, query, max(top, RERANKED) if rerank else top, allowed)
    return hits_of(index, query, rows, top, rerank)


def hits_of(
    index: Index, query: NDArray[np.float32], rows: NDArray[np.int64], top: int, rerank: bool
) -> list[Hit]:
    """The best of some rows, in order."""
    vectors, columns = index.vectors[rows], index.columns
    scores = _exact(vectors, query)
    if rerank and len(rows) > 2:
        order = _reranked(np.asarray(vectors, np.float32), query)
    else:
        order = np.lexsort((rows, -scores))
    found = zip(rows[order[:top]].tolist(), scores[order[:top]].tolist())
    return [
        Hit(rank, row, columns.paths[row], index.camera(row), float(columns.times[row]), score)
        for rank, (row, score) in enumerate(found, 1)
    ]


def nearest(
    vectors: NDArray[np.floating],
    query: NDArray[np.float32],
    top: int,
    allowed: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], Array]:
    """Rows with the largest products with a query, in float64, equal ones in ascending order.

    One pass in float32 keeps every row that can be among the first: those within the rounding error of the
    ``top``-th. They are scored again in float64.

    Args:
        vectors: [N, D] unit vectors, float16 or float32; a memory map is read once.
        query: [D], L2-normalised.
        allowed: [N] rows that count; None: all.

    Returns:
        [K] rows and [K] scores, K at most ``top``.
    """
    margin = 2 * (vectors.shape[1] + 2) * 2.0**-24  # of a float32 product of unit vectors, both ways
    query32 = torch.from_numpy(np.ascontiguousarray(query))
    room = torch.empty(BLOCK, vectors.shape[1])
    kept_rows, kept_scores = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    bound, held = -math.inf, 0
    for start in range(0, len(vectors), BLOCK):
        part = torch.from_numpy(np.asarray(vectors[start : start + BLOCK]))
        scores = torch.mv(room[: len(part)].copy_(part), query32).numpy()
        found = np.flatnonzero(scores >= bound)
        if allowed is not None:
            found = found[allowed[start + found]]
        if len(found):
            kept_rows.append(found + start)
            kept_scores.append(scores[found])
            held += len(found)
        if held > 4 * top + BLOCK or bound == -math.inf:
            bound = _shrink(kept_rows, kept_scores, top, margin)
            held = len(kept_rows[0])
    _shrink(kept_rows, kept_scores, top, margin)
    rows = kept_rows[0]
    exact = np.concatenate(
        [_exact(vectors[rows[i : i + BLOCK]], query) for i in range(0, len(rows), BLOCK)] or [np.empty(0)]
    )
    order = np.lexsort((rows, -exact))[:top]
    return rows[order], exact[order]


def _exact(vectors: NDArray[np.floating], query: NDArray[np.float32]) -> Array:
    """Products in float64, each row by itself, so that equal rows have equal scores."""
    return (np.asarray(vectors, np.float64) * query.astype(np.float64)).sum(1)


def _shrink(
    rows: list[NDArray[np.int64]], scores: list[NDArray[np.float32]], top: int, margin: float
) -> float:
    """Forget, in place, what cannot be among the first; the score from which on a row still can."""
    all_rows, all_scores = np.concatenate(rows), np.concatenate(scores)
    bound = -math.inf
    if len(all_rows) > top:
        bound = float(np.partition(all_scores, len(all_scores) - top)[-top]) - margin
        keep = all_scores >= bound
        all_rows, all_scores = all_rows[keep], all_scores[keep]
    rows[:], scores[:] = [all_rows], [all_scores]
    return bound


def _reranked(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.int64]:
    """Order of the nearest photos [n, D] by k-reciprocal re-ranking, ties as they came."""
    from crossreid.engine.evaluation.rerank import k_reciprocal

    gallery = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    distances = k_reciprocal(torch.from_numpy(query[None]), torch.from_numpy(gallery))[0].numpy()
    return np.argsort(distances, kind="stable")


def same_camera(paths: Sequence[str], index: Index) -> set[str]:
    """Cameras of those of the photos that are in the index themselves."""
    rows = {path: row for row, path in enumerate(index.columns.paths)}
    return {index.camera(rows[path]) for path in paths if path in rows}
