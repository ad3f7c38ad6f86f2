"""Clusters of images: how their distance is measured, a radius that finds enough of them, what they look like."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch.nn import functional as F
from yacs.config import CfgNode

from crossreid.engine.distributed import ALONE, Ranks, on_first
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.camera_jaccard import camera_memberships
from crossreid.engine.evaluation.camera_norm import camera_normalize
from crossreid.engine.evaluation.dbscan import dbscan
from crossreid.engine.evaluation.features import Integers
from crossreid.engine.evaluation.jaccard import Work, distances_of, jaccard_memberships, matrix_of
from crossreid.engine.log import LOGGER

STEP, MOST = 0.05, 0.8  # of eps, while too few clusters are found
DISTANCES = ("jaccard", "ca_jaccard")


@dataclass(frozen=True)
class ClusterOptions:
    """How images are clustered.

    Args:
        distance: ``jaccard`` or ``ca_jaccard`` (camera-aware).
        eps, min_samples: of DBSCAN, see ``dbscan``.
        k1, k2: of ``jaccard``.
        k1_intra, k1_inter, k2_intra, k2_inter: of ``camera_jaccard``.
        camera_norm: normalise the features by camera first.
        several_cameras: leave out clusters that one camera alone has seen.
        index: of ``jaccard``: exact or faiss.
        chunk_mb: memory for a block of distances, MiB.

    Raises:
        InputError: a value that is not allowed.
    """

    distance: str = "jaccard"
    eps: float = 0.6
    min_samples: int = 4
    k1: int = 30
    k2: int = 6
    k1_intra: int = 5
    k1_inter: int = 20
    k2_intra: int = 2
    k2_inter: int = 4
    camera_norm: bool = False
    several_cameras: bool = False
    index: str = "exact"
    chunk_mb: float = 256

    @staticmethod
    def of(test: CfgNode) -> ClusterOptions:
        """The options of a config's ``TEST.CLUSTER``."""
        keys = test.CLUSTER
        return ClusterOptions(
            distance=keys.DISTANCE,
            eps=keys.EPS,
            min_samples=keys.MIN_SAMPLES,
            k1=keys.K1,
            k2=keys.K2,
            index=keys.INDEX,
            chunk_mb=test.CHUNK_MB,
        )

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise InputError(f"distance {self.distance!r} does not exist: choose {' or '.join(DISTANCES)}")
        if self.index != "exact" and self.distance != "jaccard":
            raise InputError(f"index {self.index!r} goes with the distance jaccard alone: choose exact")
        if not 0 < self.eps < 1 or self.min_samples < 1:
            raise InputError(
                f"eps {self.eps} must lie between 0 and 1, min_samples {self.min_samples} be 1 or more"
            )


def cluster(
    features: torch.Tensor,
    cameras: Integers,
    options: ClusterOptions,
    *,
    ranks: Ranks = ALONE,
    least: int = 2,
    progress: bool = False,
) -> NDArray[np.int64]:
    """Clusters of images, the same on every rank.

    Where DBSCAN finds fewer clusters than needed, its radius grows in steps of 0.05 up to 0.8, with a warning.

    Args:
        features: [N, D]; L2-normalised here.
        cameras: [N], -1 unknown.
        ranks: they share the work; all call with the same features.
        least: clusters that there must be.

    Returns:
        [N] cluster of each image, 0 to C - 1; -1: outlier.

    Raises:
        InputError: too few clusters even so; unknown cameras or one alone where ``distance`` needs several.
    """
    work = Work(index=options.index, chunk_mb=options.chunk_mb, ranks=ranks, progress=progress)
    memberships = cluster_memberships(features, cameras, options, work)
    distance = distances_of(memberships, work, limit=max(options.eps, MOST))
    return on_first(ranks, lambda: _enough(distance, cameras, options, least))


def cluster_memberships(
    features: torch.Tensor, cameras: Integers, options: ClusterOptions, work: Work
) -> csr_array:
    """The rows [N, N] whose overlaps are the distances to cluster by."""
    vectors = camera_normalize(features, cameras) if options.camera_norm else F.normalize(features)
    points = matrix_of(vectors)
    if options.distance == "jaccard":
        return jaccard_memberships(points, options.k1, options.k2, work)
    four = (options.k1_intra, options.k1_inter, options.k2_intra, options.k2_inter)
    return camera_memberships(points, cameras, four, work)


def _enough(
    distance: torch.Tensor, cameras: Integers, options: ClusterOptions, least: int
) -> NDArray[np.int64]:
    eps = options.eps
    while True:
        labels = dbscan(distance, eps=eps, min_samples=options.min_samples)
        if options.several_cameras:
            labels = without_single_camera(labels, cameras)
        found = int(labels.max(initial=-1)) + 1
        if found >= least:
            if eps > options.eps:
                LOGGER.warning(
                    "too few clusters at eps %.2f: took eps %.2f, %d clusters", options.eps, eps, found
                )
            return labels
        if eps + STEP > MOST + 1e-9:
            raise InputError(
                f"{len(labels)} images make {found} clusters even at eps {eps:.2f}, {least} are needed: lower "
                f"{'eps' if found else 'min_samples'}, train longer on a source, or give more images"
            )
        eps += STEP


def describe(labels: Integers, cameras: Integers) -> dict[str, float]:
    """What to log of a clustering.

    Args:
        labels: [N] clusters, -1 outlier.
        cameras: [N].

    Returns:
        ``clusters``, ``clustered`` (share of the images), ``size_q10`` ``size_median`` ``size_q90`` (images a cluster),
        ``cameras`` (mean a cluster) and ``single_camera`` (share of the clusters); the last five are NaN without any.
    """
    known, own = camera_counts(labels, cameras)
    size, seen = known.sum(1), (known > 0).sum(1)
    low, median, high = np.quantile(size, (0.1, 0.5, 0.9)) if len(size) else (math.nan,) * 3
    return {
        "clusters": len(size),
        "clustered": float(own.mean()) if len(own) else 0.0,
        "size_q10": float(low),
        "size_median": float(median),
        "size_q90": float(high),
        "cameras": float(seen.mean()) if len(size) else math.nan,
        "single_camera": float((seen == 1).mean()) if len(size) else math.nan,
    }


def camera_counts(labels: Integers, cameras: Integers) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Images of each cluster in each camera [C, cameras present], and which images are clustered [N]."""
    label, camera = (np.asarray(x) for x in (labels, cameras))
    own = label >= 0
    _, column = np.unique(camera, return_inverse=True)
    _, row = np.unique(label[own], return_inverse=True)
    counts = np.zeros((row.max(initial=-1) + 1, column.max(initial=-1) + 1), np.int64)
    np.add.at(counts, (row, column[own]), 1)
    return counts, own


def without_single_camera(labels: Integers, cameras: Integers) -> NDArray[np.int64]:
    """Labels with the clusters that one camera alone has seen left out, the others renumbered; [N], -1 outlier."""
    counts, own = camera_counts(labels, cameras)
    kept = (counts > 0).sum(1) > 1
    number = np.where(kept, kept.cumsum() - 1, -1)
    new = np.full(len(own), -1, np.int64)
    new[own] = number[np.unique(np.asarray(labels)[own], return_inverse=True)[1]]
    return new
