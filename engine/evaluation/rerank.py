"""k-reciprocal re-ranking and the Jaccard distance on sparse neighbour lists.

Distances are squared Euclidean ones of the features as given. Nothing of size N x N or queries x gallery is held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from scipy.sparse import csr_array

from crossreid.engine.distributed import ALONE, Ranks, group
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.camera_jaccard import camera_jaccard, camera_neighbors
from crossreid.engine.evaluation.camera_norm import normalize_sets
from crossreid.engine.evaluation.distances import pair_blocks
from crossreid.engine.evaluation.features import FeatureMatrix, Features, Prepared, duplicates, prepare
from crossreid.engine.evaluation.jaccard import (
    Scale,
    Work,
    check_neighbors,
    jaccard,
    jaccard_of,
    memberships,
    reciprocal_memberships,
)
from crossreid.engine.evaluation.metrics import MetricAccumulator
from crossreid.engine.evaluation.neighbors import nearest_points
from crossreid.engine.evaluation.options import RetrievalOptions
from crossreid.engine.evaluation.reciprocal import overlaps
from crossreid.engine.evaluation.retrieval import Retrieval, summary
from crossreid.engine.log import progress_bar

__all__ = [
    "camera_jaccard",
    "camera_k_reciprocal",
    "evaluate_reranked",
    "jaccard",
    "k_reciprocal",
    "reranked",
]


def k_reciprocal(
    query: torch.Tensor,
    gallery: torch.Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    squared: bool = True,
    chunk_mb: float = 256,
    progress: bool = False,
) -> torch.Tensor:
    """Re-ranked distances of all queries to all gallery images; ``evaluate_reranked`` scores without holding them.

    Args:
        query, gallery: [Q, D], [G, D] as compared, so normalise them for cosine.
        k1: neighbours besides the point itself.
        k2: neighbours over which memberships are averaged, the point itself included; 1: none.
        lambda_value: weight of the original distance in 0..1.
        squared: squared Euclidean distances enter, which the method squares again; False: plain ones.

    Returns:
        [Q, G] in the features' computing type.

    Raises:
        InputError: features that are empty, not finite or of different dimensions; options out of range.

    Source: Zhong et al., CVPR 2017.
    """
    ready = _plain(query, gallery)
    parts = reranked(
        ready.query, ready.gallery, k1=k1, k2=k2, lambda_value=lambda_value, squared=squared, chunk_mb=chunk_mb,
        progress=progress,
    )  # fmt: skip
    return torch.cat([block.clone() for _, block in parts])


def evaluate_reranked(
    query: Features,
    gallery: Features,
    options: RetrievalOptions | None = None,
    *,
    squared: bool = True,
    normalize: bool = True,
    device: torch.device | str | None = None,
    distributed: bool = False,
    progress: bool = False,
    **keys: Any,
) -> Retrieval:
    """Score re-ranked distances by the protocol of ``retrieval.evaluate``, a block of queries at a time.

    Junk of the gallery takes no part in the re-ranking either.

    Args:
        squared: see ``k_reciprocal``.
        normalize: L2-normalise all vectors first.
        distributed: the ranks share the search for neighbours and the scoring.

    The others, the result and the errors: see ``retrieval.evaluate``.
    """
    options = options or RetrievalOptions(**keys)
    if options.camera_norm:
        query, gallery = normalize_sets(query, gallery)
    ready = prepare(query, gallery, metric="euclidean", device=device, normalize=normalize)
    tally = MetricAccumulator(ready.labels, ap=options.ap, cameras=options.camera_pairs, roc=options.rates)
    ranks = group(distributed)
    if len(ready.gallery):
        sets: dict[str, Any] = {
            "k1": options.k1,
            "k2": options.k2,
            "lambda_value": options.lambda_value,
            "squared": squared,
        }
        work: dict[str, Any] = {
            "chunk_mb": options.chunk_mb,
            "ranks": ranks,
            "progress": progress and ranks.first,
        }
        for start, block in reranked(ready.query, ready.gallery, **sets, **work):
            tally.add(start, block.neg_())
    return replace(summary(tally, options.ranks, ranks), camera_norm=options.camera_norm)


def reranked(
    query: FeatureMatrix,
    gallery: FeatureMatrix,
    *,
    k1: int,
    k2: int,
    lambda_value: float,
    squared: bool = True,
    chunk_mb: float = 256,
    ranks: Ranks = ALONE,
    progress: bool = False,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Re-ranked distances, a block of queries after the other; see ``k_reciprocal``.

    Yields:
        First query of the block and its distances [q, G], in a buffer reused by the next block.
    """
    check_neighbors(k1=k1, k2=k2)
    _check_lambda(lambda_value)
    points, power = query.concat(gallery), 2 if squared else 1
    count = min(len(points), max(k1 + 1, k2))
    known = score_buffer(query, gallery, chunk_mb, ranks)
    index, farthest = nearest_points(
        points, count, chunk_mb=chunk_mb, ranks=ranks, corner=known, progress=progress
    )
    farthest = farthest.to(points.dtype).clamp_min(torch.finfo(points.dtype).tiny)
    matrix = reciprocal_memberships(
        points, index, k1 + 1, round(k1 / 2) + 1, k2, (farthest, power), progress=progress
    )
    yield from _blended(
        query, points, matrix, (farthest, power), known, lambda_value, chunk_mb, ranks, progress
    )


def _blended(
    query: FeatureMatrix,
    points: FeatureMatrix,
    matrix: csr_array,
    scale: Scale,
    known: torch.Tensor | None,
    lambda_value: float,
    chunk_mb: float,
    ranks: Ranks = ALONE,
    progress: bool = False,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Jaccard distances of the own share of the queries (the first points) to the gallery, and the original ones."""
    start, stop = ranks.bounds(len(query), query.tile_rows)
    if start >= stop:
        return
    (farthest, power), of_gallery = scale, matrix[len(query) :].T.tocsr()
    bar = progress_bar(stop - start, "re-ranking, distances", enabled=progress)
    for first, block in _originals(query, points, known, start, stop, chunk_mb):
        own = farthest[first : first + len(block), None].neg().to(block.device)
        for rows, sums in overlaps(matrix, of_gallery, torch.arange(first, first + len(block))):
            part = slice(int(rows[0]) - first, int(rows[-1]) - first + 1)
            block[part].div_(own[part]).clamp_min_(0).pow_(power).mul_(lambda_value)
            block[part] += jaccard_of(sums).mul_(1 - lambda_value).to(block.device)
            bar.update(len(rows))
        yield first, block
    bar.close()


def _originals(
    query: FeatureMatrix,
    points: FeatureMatrix,
    known: torch.Tensor | None,
    start: int,
    stop: int,
    chunk_mb: float,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Minus the squared distances of queries (the first points) to the gallery (the others), block by block."""
    if known is not None:
        yield 0, known
        return
    pairs = pair_blocks(points, duplicates(points), chunk_mb=chunk_mb, start=start, stop=stop)
    for first, left, block in pairs:
        yield first, block[: stop - first, len(query) - left :]


def score_buffer(
    query: FeatureMatrix, gallery: FeatureMatrix, chunk_mb: float, ranks: Ranks
) -> torch.Tensor | None:
    """Memory for all scores of queries against gallery, if they fit into a chunk: they need not be made twice."""
    size = 8 if query.dtype == torch.float64 else 4
    if ranks.world > 1 or size * len(query) * len(gallery) > chunk_mb * 2**20:
        return None
    return torch.empty(len(query), len(gallery), dtype=query.dtype, device=query.device)


def camera_k_reciprocal(
    query: torch.Tensor,
    gallery: torch.Tensor,
    query_cams: torch.Tensor,
    gallery_cams: torch.Tensor,
    *,
    k1_intra: int = 5,
    k1_inter: int = 20,
    k2_intra: int = 3,
    k2_inter: int = 3,
    lambda_value: float = 0.3,
    chunk_mb: float = 256,
    progress: bool = False,
) -> torch.Tensor:
    """Re-ranked distances of all queries to all gallery images, with neighbours found camera by camera.

    Args:
        query, gallery: [Q, D], [G, D] as compared, so normalise them for cosine.
        query_cams, gallery_cams: [Q], [G], 0 or more.
        k1_intra, k1_inter, k2_intra, k2_inter: see ``camera_jaccard``.
        lambda_value: weight of the original distance in 0..1.

    Returns:
        [Q, G] in the features' computing type.

    Raises:
        InputError: features or cameras that do not fit or are unknown; options out of range.

    Source: Chen et al., CVPR 2024.
    """
    _check_lambda(lambda_value)
    ready = _plain(query, gallery)
    points = ready.query.concat(ready.gallery)
    cams = torch.cat([torch.as_tensor(cams) for cams in (query_cams, gallery_cams)])
    four = (k1_intra, k1_inter, k2_intra, k2_inter)
    lists = camera_neighbors(points, cams, four, Work(chunk_mb=chunk_mb, progress=progress))
    scale = lists.farthest.to(points.dtype).clamp_min(torch.finfo(points.dtype).tiny), 2
    matrix = lists.expanded(memberships(points, lists.reciprocal(), scale, progress=progress))
    parts = _blended(ready.query, points, matrix, scale, None, lambda_value, chunk_mb, progress=progress)
    return torch.cat([block.clone() for _, block in parts])


def _plain(query: torch.Tensor, gallery: torch.Tensor) -> Prepared:
    """Checked vectors of which nothing else is known."""
    sets = (
        Features(f, torch.zeros(len(f), dtype=torch.int64), torch.zeros(len(f))) for f in (query, gallery)
    )
    return prepare(*sets, metric="euclidean")


def _check_lambda(value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"lambda of the re-ranking is {value}: give 0 (Jaccard only) to 1 (original only)")
