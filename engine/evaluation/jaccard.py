"""Jaccard distance of neighbour sets between all points, as a sparse matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array

from crossreid.engine.distributed import ALONE, Ranks
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.features import FeatureMatrix, product_type
from crossreid.engine.evaluation.neighbors import approximate_points, nearest_points, squared_distances
from crossreid.engine.evaluation.reciprocal import distinct_pairs, overlaps, query_expansion, reciprocal_sets
from crossreid.engine.log import progress_bar

Scale = tuple[torch.Tensor, int]  # [N] distance of each row that counts as 1, and the power taken after


def jaccard(
    features: torch.Tensor,
    *,
    k1: int = 30,
    k2: int = 6,
    limit: float = 1,
    index: str = "exact",
    chunk_mb: float = 256,
    ranks: Ranks = ALONE,
    progress: bool = False,
) -> torch.Tensor:
    """Jaccard distance of expanded k-reciprocal neighbour sets between all points, for clustering.

    Args:
        features: [N, D] as compared; normalise them first where length means nothing.
        k1: neighbours, the point itself included.
        k2: neighbours over which memberships are averaged, the point itself included; 1: none.
        limit: leave out larger distances: a radius of DBSCAN needs no others.
        index: ``exact`` search for neighbours, or ``faiss``: approximate, for more images than exact search can do.
        ranks: they share the work; all call with the same features and get the same result.

    Returns:
        Coalesced sparse [N, N]; entries that are absent are 1, and entries may be 0.

    Raises:
        InputError: features that are empty or not finite; options out of range.

    Source: Zhong et al., CVPR 2017; its form for clustering, Ge et al., NeurIPS 2020 (SpCL).
    """
    work = Work(index=index, chunk_mb=chunk_mb, ranks=ranks, progress=progress)
    return distances_of(jaccard_memberships(matrix_of(features), k1, k2, work), work, limit=limit)


@dataclass(frozen=True)
class Work:
    """How neighbours and distances are computed; no result depends on it but by ``index``."""

    index: str = "exact"
    chunk_mb: float = 256
    ranks: Ranks = ALONE
    progress: bool = False


def jaccard_memberships(points: FeatureMatrix, k1: int, k2: int, work: Work) -> csr_array:
    """The rows [N, N] whose overlap is the distance of ``jaccard``; the same on all ranks."""
    check_neighbors(k1=k1, k2=k2)
    count = min(len(points), max(k1, k2))
    if work.index == "exact":
        found = nearest_points(
            points, count, chunk_mb=work.chunk_mb, ranks=work.ranks, progress=work.progress
        )[0]
    elif work.index == "faiss":
        found = approximate_points(points, count)
    else:
        raise InputError(f"index {work.index!r} does not exist: choose exact or faiss")
    half = min(k1, round(k1 / 2) + 1)
    return reciprocal_memberships(points, found, k1, half, k2, progress=work.progress)


def matrix_of(features: torch.Tensor) -> FeatureMatrix:
    """Features [N, D] ready for products.

    Raises:
        InputError: they are empty, not floating or not finite.
    """
    if features.dim() != 2 or not features.is_floating_point() or not features.numel():
        raise InputError(f"features are {features.dtype} {tuple(features.shape)}: need floating [N, D]")
    return FeatureMatrix(features, name="image {}".format, dtype=product_type(features.device, features))


def check_neighbors(**counts: int) -> None:
    """Raise InputError where a number of neighbours is below 1."""
    if min(counts.values()) < 1:
        named = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError(f"numbers of neighbours must be 1 or more, got {named}")


def reciprocal_memberships(
    points: FeatureMatrix,
    index: torch.Tensor,
    k: int,
    half: int,
    k2: int,
    scale: Scale | None = None,
    *,
    progress: bool = False,
) -> csr_array:
    """Weights of each point's reciprocal set, summing to 1, averaged over its k2 nearest points (equation 7).

    Args:
        index: [N, >= k, >= k2] nearest points.
        scale: None: squared distances as they are.
    """
    matrix = memberships(points, reciprocal_sets(index[:, :k], half), scale, progress=progress)
    return matrix if k2 == 1 else query_expansion(matrix, index[:, :k2])


def memberships(
    points: FeatureMatrix, sets: csr_array, scale: Scale | None = None, *, progress: bool = False
) -> csr_array:
    """Weights exp(-distance) of the members of each point's set, summing to 1 [N, N]."""
    rows = torch.arange(len(points)).repeat_interleave(torch.from_numpy(np.diff(sets.indptr)))
    one, other, place = distinct_pairs(sets)
    distances = squared_distances(points, one, other, progress=progress)[place]
    if scale is not None:
        distances = (distances / scale[0][rows]) ** scale[1]
    weights = distances.neg().exp()
    total = torch.zeros(len(points), dtype=weights.dtype).index_add_(0, rows, weights)
    return csr_array(((weights / total[rows]).numpy(), sets.indices, sets.indptr), shape=sets.shape)


def distances_of(matrix: csr_array, work: Work, *, limit: float = 1) -> torch.Tensor:
    """Jaccard distances between the rows of a matrix of memberships; see ``jaccard``."""
    size, ranks = matrix.shape[0], work.ranks
    own = torch.arange(*ranks.bounds(size, 1))
    least = max(
        0, 2 * (1 - limit) / (2 - limit) - 1e-3
    )  # common weight at the limit, and some room for rounding
    places, values = [np.empty((0, 2), np.int32)], [np.empty(0, matrix.dtype)]
    with progress_bar(len(own), "Jaccard distances", enabled=work.progress) as bar:
        for rows, sums in overlaps(matrix, matrix.T.tocsr(), own):
            row, column = np.divmod(np.flatnonzero(sums.numpy() > least), size)
            found = jaccard_of(sums[row, column]).clamp_min_(0)
            if limit < 1:
                near = found <= limit
                row, column, found = row[near], column[near], found[near]
            places.append(np.stack((rows.numpy()[row], column), 1).astype(np.int32))
            values.append(found.numpy())
            bar.update(len(rows))
    place = torch.from_numpy(ranks.gather(np.concatenate(places))).long().T
    value = torch.from_numpy(ranks.gather(np.concatenate(values)))
    with torch.sparse.check_sparse_tensor_invariants(True):
        return torch.sparse_coo_tensor(place.contiguous(), value, (size, size), is_coalesced=True)


def jaccard_of(overlap: torch.Tensor) -> torch.Tensor:
    """1 - S / (2 - S), the Jaccard distance of sets of weight 1 with common weight S (equation 10), from S in place."""
    union = 2 - overlap
    return overlap.div_(union).neg_().add_(1)
