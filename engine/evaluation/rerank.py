"""k-reciprocal re-ranking and the Jaccard distance on sparse neighbour lists.

Distances are squared Euclidean ones of the features as given. Nothing of size N x N or queries x gallery is held.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array

from crossreid.engine.distributed import ALONE, Ranks, group
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.distances import pair_blocks
from crossreid.engine.evaluation.features import FeatureMatrix, Features, duplicates, prepare, product_type
from crossreid.engine.evaluation.metrics import MetricAccumulator
from crossreid.engine.evaluation.neighbors import nearest_points, squared_distances
from crossreid.engine.evaluation.options import RetrievalOptions
from crossreid.engine.evaluation.reciprocal import distinct_pairs, overlaps, query_expansion, reciprocal_sets
from crossreid.engine.evaluation.retrieval import Retrieval, summary
from crossreid.engine.log import progress_bar


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
    sets = [
        Features(f, torch.zeros(len(f), dtype=torch.int64), torch.zeros(len(f))) for f in (query, gallery)
    ]
    ready = prepare(*sets, metric="euclidean")
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
    return summary(tally, options.ranks, ranks)


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
        First query of the block and its distances [q, G], in memory that the next block takes over.
    """
    _check(k1, k2)
    if not 0 <= lambda_value <= 1:
        raise InputError(
            f"lambda of the re-ranking is {lambda_value}: give 0 (Jaccard only) to 1 (original only)"
        )
    points, power = query.concat(gallery), 2 if squared else 1
    count = min(len(points), max(k1 + 1, k2))
    known = score_buffer(query, gallery, chunk_mb, ranks)
    index, farthest = nearest_points(
        points, count, chunk_mb=chunk_mb, ranks=ranks, corner=known, progress=progress
    )
    farthest = farthest.to(points.dtype).clamp_min(torch.finfo(points.dtype).tiny)
    matrix = _memberships(points, index, k1 + 1, round(k1 / 2) + 1, k2, (farthest, power), progress)
    start, stop = ranks.bounds(len(query), query.tile_rows)
    if start >= stop:
        return
    of_gallery = matrix[len(query) :].T.tocsr()
    bar = progress_bar(stop - start, "re-ranking, distances", enabled=progress)
    for first, block in _originals(query, points, known, start, stop, chunk_mb):
        own = farthest[first : first + len(block), None].to(block.device)
        block.neg_().clamp_min_(0).div_(own).pow_(power).mul_(lambda_value)
        for rows, sums in overlaps(matrix, of_gallery, torch.arange(first, first + len(block))):
            distances = _jaccard(sums).mul_(1 - lambda_value).to(block.device)
            block[rows[0] - first : rows[-1] - first + 1] += distances
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


def jaccard(
    features: torch.Tensor, *, k1: int = 30, k2: int = 6, chunk_mb: float = 256, progress: bool = False
) -> torch.Tensor:
    """Jaccard distance of expanded k-reciprocal neighbour sets between all points, for clustering.

    Args:
        features: [N, D] as compared; normalise them first where length means nothing.
        k1: neighbours, the point itself included.
        k2: neighbours over which memberships are averaged, the point itself included; 1: none.

    Returns:
        Coalesced sparse [N, N]; entries that are absent are 1, and entries may be 0.

    Raises:
        InputError: features that are empty or not finite; options out of range.

    Source: Zhong et al., CVPR 2017; its form for clustering, Ge et al., NeurIPS 2020 (SpCL).
    """
    _check(k1, k2)
    if features.dim() != 2 or not features.is_floating_point() or not features.numel():
        raise InputError(f"features are {features.dtype} {tuple(features.shape)}: need floating [N, D]")
    points = FeatureMatrix(features, name="image {}".format, dtype=product_type(features.device, features))
    index, _ = nearest_points(points, min(len(points), max(k1, k2)), chunk_mb=chunk_mb, progress=progress)
    matrix = _memberships(points, index, k1, min(k1, round(k1 / 2) + 1), k2, None, progress)
    bar = progress_bar(len(points), "Jaccard distances", enabled=progress)
    places, values = [], []
    for rows, sums in overlaps(matrix, matrix.T.tocsr(), torch.arange(len(points))):
        row, column = sums.nonzero(as_tuple=True)
        places.append(torch.stack((rows[row], column)))
        values.append(_jaccard(sums[row, column]).clamp_min_(0))
        bar.update(len(rows))
    bar.close()
    size = (len(points), len(points))
    with torch.sparse.check_sparse_tensor_invariants(True):
        return torch.sparse_coo_tensor(torch.cat(places, 1), torch.cat(values), size, is_coalesced=True)


def _memberships(
    points: FeatureMatrix,
    index: torch.Tensor,
    k: int,
    half: int,
    k2: int,
    scale: tuple[torch.Tensor, int] | None,
    progress: bool,
) -> csr_array:
    """Weights of each point's reciprocal set, summing to 1, averaged over its k2 nearest points (equation 7).

    Args:
        index: [N, >= k, >= k2] nearest points.
        scale: distance of each row that counts as 1, and the power taken after; None: squared distances as they are.
    """
    sets = reciprocal_sets(index[:, :k], half)
    rows = torch.arange(len(points)).repeat_interleave(torch.from_numpy(np.diff(sets.indptr)))
    one, other, place = distinct_pairs(sets)
    distances = squared_distances(points, one, other, progress=progress)[place]
    if scale is not None:
        distances = (distances / scale[0][rows]) ** scale[1]
    weights = distances.neg().exp()
    total = torch.zeros(len(points), dtype=weights.dtype).index_add_(0, rows, weights)
    matrix = csr_array(((weights / total[rows]).numpy(), sets.indices, sets.indptr), shape=sets.shape)
    return matrix if k2 == 1 else query_expansion(matrix, index[:, :k2])


def _jaccard(overlap: torch.Tensor) -> torch.Tensor:
    """1 - S / (2 - S), the Jaccard distance of sets of weight 1 with common weight S (equation 10), from S in place."""
    union = 2 - overlap
    return overlap.div_(union).neg_().add_(1)


def _check(k1: int, k2: int) -> None:
    if k1 < 1 or k2 < 1:
        raise InputError(f"k1 {k1} and k2 {k2} of the re-ranking must be 1 or more")
