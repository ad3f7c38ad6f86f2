"""Camera-aware Jaccard distance: neighbours of the own camera and of the others are looked for separately.

An image of a wrong camera is never a neighbour: a small camera has short lists. (The published program fills such a
list with images of other cameras.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from crossreid.engine.distributed import ALONE, Ranks
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.distances import pair_blocks
from crossreid.engine.evaluation.features import FeatureMatrix, Integers, duplicates
from crossreid.engine.evaluation.jaccard import Work, check_neighbors, distances_of, matrix_of, memberships
from crossreid.engine.evaluation.neighbors import Nearest
from crossreid.engine.log import progress_bar


def camera_jaccard(
    features: torch.Tensor,
    cameras: Integers,
    *,
    k1_intra: int = 5,
    k1_inter: int = 20,
    k2_intra: int = 2,
    k2_inter: int = 4,
    limit: float = 1,
    chunk_mb: float = 256,
    ranks: Ranks = ALONE,
    progress: bool = False,
) -> torch.Tensor:
    """Jaccard distance of reciprocal neighbours within the own camera and among the others, for clustering.

    Args:
        features: [N, D] as compared; normalise them first where length means nothing.
        cameras: [N], 0 or more.
        k1_intra: neighbours of the same camera, the point itself not counted.
        k1_inter: neighbours of other cameras, less one, as published.
        k2_intra, k2_inter: nearest images of the same camera (the point is the first) and of others over which
            memberships are averaged.
        limit, ranks: see ``jaccard``.

    Returns:
        Coalesced sparse [N, N]; entries that are absent are 1, and entries may be 0.

    Raises:
        InputError: unknown cameras, or one camera alone; features that are empty or not finite; options out of range.

    Source: Chen et al., CVPR 2024.
    """
    work = Work(chunk_mb=chunk_mb, ranks=ranks, progress=progress)
    four = (k1_intra, k1_inter, k2_intra, k2_inter)
    return distances_of(camera_memberships(matrix_of(features), cameras, four, work), work, limit=limit)


def camera_memberships(
    points: FeatureMatrix,
    cameras: Integers,
    four: tuple[int, int, int, int],
    work: Work,
) -> csr_array:
    """The rows [N, N] whose overlap is the distance of ``camera_jaccard``; the same on all ranks."""
    lists = camera_neighbors(points, cameras, four, work)
    return lists.expanded(memberships(points, lists.reciprocal(), progress=work.progress))


@dataclass(frozen=True)
class CameraNeighbors:
    """Nearest images of each point, the nearest first.

    Args:
        index: of the same camera (the point itself is the first) and of the others: two of [N, k].
        valid: how many of each list there are: two of [N].
        k1, k2: lengths of the lists for sets and for averages: same camera, others.
        farthest: [N] squared distance of the farthest point.
    """

    index: tuple[NDArray[np.int64], NDArray[np.int64]]
    valid: tuple[NDArray[np.int64], NDArray[np.int64]]
    k1: tuple[int, int]
    k2: tuple[int, int]
    farthest: torch.Tensor

    def reciprocal(self) -> csr_array:
        """Mutual neighbours of the same camera and of others [N, N], columns rising."""
        lists = [_members(*part) for part in zip(self.index, self.valid, self.k1)]
        sets = sum(near.multiply(near.T).tocsr() for near in lists)
        sets.sort_indices()
        return sets

    def expanded(self, matrix: csr_array) -> csr_array:
        """Each row becomes the mean of the rows of its first neighbours of both kinds, with equal weights."""
        chosen = sum(_members(*part).astype(matrix.dtype) for part in zip(self.index, self.valid, self.k2))
        mean = (chosen @ matrix).tocsr()
        mean.data /= np.repeat(np.diff(chosen.indptr), np.diff(mean.indptr)).astype(matrix.dtype)
        mean.sort_indices()
        return mean


def _members(index: NDArray[np.int64], valid: NDArray[np.int64], k: int) -> csr_array:
    """Row i holds a 1 for each of the first k neighbours of point i that there are."""
    size = np.minimum(valid, k)
    columns = index[:, :k][np.arange(min(k, index.shape[1])) < size[:, None]]
    starts = np.concatenate([[0], size.cumsum()])
    return csr_array((np.ones(len(columns), np.int32), columns, starts), shape=(len(index), len(index)))


def camera_neighbors(
    points: FeatureMatrix,
    cameras: Integers,
    four: tuple[int, int, int, int],
    work: Work,
) -> CameraNeighbors:
    """Each point's nearest points in its own camera and in the others.

    Args:
        four: k1_intra, k1_inter, k2_intra, k2_inter, see ``camera_jaccard``.

    Raises:
        InputError: unknown cameras, or one camera alone; a number of neighbours below 1.
    """
    check_neighbors(**dict(zip(("k1_intra", "k1_inter", "k2_intra", "k2_inter"), four)))
    k1, k2 = (four[0] + 1, four[1] + 1), four[2:]
    cams = torch.as_tensor(cameras).to(points.device)
    valid = _check(cams, len(points))
    copies = duplicates(points)
    found = [Nearest(points, min(int(most.max()), max(lengths))) for most, lengths in zip(valid, zip(k1, k2))]
    with progress_bar(len(points), "camera-aware neighbours", enabled=work.progress) as bar:
        pairs = pair_blocks(points, copies, chunk_mb=work.chunk_mb, share=(work.ranks.rank, work.ranks.world))
        for first, left, block in pairs:
            rows = slice(first, first + len(block))
            found[0].see_farthest(first, left, block, symmetric=not len(copies[0]))
            own = torch.arange(len(block), device=block.device)
            block[own, first - left + own] = torch.inf  # an exact copy may not come before the point itself
            same = cams[rows, None] == cams[None, left:]
            for nearest, wrong in zip(found, (~same, same)):
                nearest.see(first, left, block.masked_fill(wrong, -torch.inf), symmetric=not len(copies[0]))
            bar.update(len(block))
    lists, farthest = zip(*(nearest.joined(work.ranks) for nearest in found))
    index = tuple(x.numpy() for x in lists)
    return CameraNeighbors((index[0], index[1]), valid, k1, k2, farthest[0])


def _check(cams: torch.Tensor, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many images of its camera each point has, itself included, and how many of the others."""
    if cams.shape != (count,):
        raise InputError(f"{count} features, but cameras {tuple(cams.shape)}")
    if unknown := int((cams < 0).sum()):
        raise InputError(
            f"{unknown} of {count} images have no camera (-1): a camera-aware distance needs all; use jaccard"
        )
    _, group, size = cams.cpu().unique(return_inverse=True, return_counts=True)
    if len(size) < 2:
        raise InputError(
            f"all {count} images are of one camera: a camera-aware distance needs two; use jaccard"
        )
    same = size[group].numpy()
    return same, count - same
