"""Label-free criteria: how good features of unlabelled images are, judged without their identities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from torch.nn import functional as F

from crossreid.engine.distributed import ALONE, Ranks, on_first
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.clusters import ClusterOptions, camera_counts, cluster_memberships
from crossreid.engine.evaluation.dbscan import Distance, dbscan, to_csr
from crossreid.engine.evaluation.features import Integers
from crossreid.engine.evaluation.jaccard import Work, distances_of, jaccard, jaccard_of
from crossreid.engine.evaluation.reciprocal import overlaps

CRITERIA = ("silhouette", "stability", "camera_entropy", "density", "source_guided")  # larger is better
COUNTS = ("clusters", "clustered")  # beside them in a report


def silhouette(distance: Distance, labels: Integers) -> float:
    """Mean of (b - a) / max(a, b) over the clustered points.

    a is a point's mean distance to the others of its cluster, b the least mean distance to another cluster; a point
    alone in its cluster counts 0.

    Args:
        distance: symmetric [N, N]; dense, or sparse, where absent entries are 1.
        labels: [N], -1 outlier, left out.

    Returns:
        -1 to 1; NaN with fewer than two clusters.

    Source: Rousseeuw, J. Comput. Appl. Math. 1987.
    """
    label = np.asarray(labels)
    chosen = np.flatnonzero(label >= 0)
    names, own = np.unique(label[chosen], return_inverse=True)
    if len(names) < 2:
        return math.nan
    near = to_csr(distance)[chosen][:, chosen]
    near.data = 1 - near.data  # absent distances of 1 become absent zeros
    near = near + diags_array(1 - near.diagonal(), format="csr")  # a point is at distance 0 from itself
    close, size = near @ _one_hot(own), np.bincount(own)
    total, step = 0.0, max(1, 2**22 // len(names))
    for first in range(0, len(own), step):
        rows = slice(first, first + step)
        total += _silhouettes(size - close[rows].toarray(), own[rows], size).sum()
    return float(total / len(own))


def sampled_silhouette(memberships: csr_array, labels: Integers, sample: int = 5000) -> float:
    """The same of the Jaccard distance between rows of memberships, over at most ``sample`` clustered points.

    Their distances to all clustered points are exact; no matrix of distances is held.

    Args:
        memberships: [N, N], see ``clusters.cluster_memberships``.
        sample: points, evenly spaced in N.
    """
    label = np.asarray(labels)
    chosen = np.flatnonzero(label >= 0)
    names, own = np.unique(label[chosen], return_inverse=True)
    if len(names) < 2:
        return math.nan
    member, size = _one_hot(own), np.bincount(own)
    places = np.unique(np.linspace(0, len(chosen) - 1, min(sample, len(chosen))).astype(np.int64))
    inverse, total, done = memberships[chosen].T.tocsr(), 0.0, 0
    for rows, sums in overlaps(memberships, inverse, torch.from_numpy(chosen[places])):
        place = places[done : done + len(rows)]
        close = (1 - jaccard_of(sums)).double().numpy()  # [r, clustered points]
        close[np.arange(len(rows)), place] = 1
        total += _silhouettes(size - close @ member, own[place], size).sum()
        done += len(rows)
    return float(total / len(places))


def _one_hot(own: NDArray[np.int64]) -> csr_array:
    return csr_array((np.ones(len(own)), (np.arange(len(own)), own)))


def _silhouettes(
    sums: NDArray[np.float64], own: NDArray[np.int64], size: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Silhouette of points [r] with summed distances to each cluster [r, C], their own cluster [r], all sizes [C]."""
    mine = np.arange(len(own)), own
    a = sums[mine] / np.maximum(size[own] - 1, 1)
    means = sums / size
    means[mine] = np.inf
    b = means.min(1)
    larger = np.maximum(a, b)
    scores = np.divide(b - a, larger, out=np.zeros_like(a), where=larger > 0)
    return np.where(size[own] > 1, scores, 0)


def rand_index(one: Integers, other: Integers) -> float:
    """Adjusted Rand index of two labellings [N] of the same points: 1 equal, 0 as by chance.

    Source: Hubert and Arabie, J. Classification 1985.
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(np.asarray(one), np.asarray(other)))


def stability(before: Integers, labels: Integers) -> float:
    """Adjusted Rand index of two clusterings on the points that both have clustered (label >= 0); NaN without any."""
    one, other = np.asarray(before), np.asarray(labels)
    both = (one >= 0) & (other >= 0)
    return rand_index(one[both], other[both]) if both.any() else math.nan


def camera_entropy(labels: Integers, cameras: Integers) -> float:
    """Mean entropy of the cameras within a cluster, as a fraction of the logarithm of the number of cameras.

    Args:
        labels: [N], -1 outlier, left out.
        cameras: [N].

    Returns:
        0 (every cluster in one camera) to 1; NaN with one camera or no cluster.

    Source: the term of 3C, arXiv 2408.09464.
    """
    counts, _ = camera_counts(labels, cameras)
    if counts.shape[1] < 2 or not len(counts):
        return math.nan
    p = counts / counts.sum(1, keepdims=True)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(1)
    return float(entropy.mean() / math.log(counts.shape[1]))


@torch.no_grad()
def neighborhood_density(features: torch.Tensor, *, temperature: float = 0.05, sample: int = 5000) -> float:
    """Soft neighbourhood density: the mean entropy of each point's softmax over its similarities to the others.

    Args:
        features: [N, D]; L2-normalised here.
        temperature: divides the cosine similarities.
        sample: points at most, evenly spaced in N.

    Returns:
        0 to log(N - 1), larger is better; NaN with fewer than two points.

    Source: Saito et al., ICCV 2021.
    """
    if len(features) > sample:
        features = features[torch.linspace(0, len(features) - 1, sample).long()]
    if len(features) < 2:
        return math.nan
    points = F.normalize(features.float() if features.dtype != torch.float64 else features)
    entropies = []
    for rows in torch.arange(len(points)).split(512):
        scores = points[rows] @ points.T / temperature
        scores[torch.arange(len(rows)), rows] = -torch.inf
        log_p = scores.log_softmax(1)
        entropies.append(-(log_p.exp() * log_p.clamp_min(-1e4)).sum(1))
    return float(torch.cat(entropies).double().mean())


def whole_identities(pids: Integers, count: int) -> NDArray[np.int64]:
    """Rows of all images of some identities, evenly spread over their numbers, about ``count`` images; rising."""
    pid = np.asarray(pids)
    names, own, size = np.unique(pid, return_inverse=True, return_counts=True)
    order = np.argsort((np.arange(len(names)) * 0.6180339887) % 1, kind="stable")  # any first few are spread
    kept = order[: max(1, int(np.searchsorted(size[order].cumsum(), count, side="right")))]
    return np.flatnonzero(np.isin(own, kept))


def can_cluster(cameras: Integers, options: ClusterOptions) -> bool:
    """Whether the cameras [N] of some images are known well enough to cluster them with these options."""
    known, by_camera = np.asarray(cameras), options.distance == "ca_jaccard"
    if (by_camera or options.camera_norm) and (known < 0).any():
        return False
    return not by_camera or len(np.unique(known)) > 1


def source_guided(
    features: torch.Tensor,
    pids: Integers,
    *,
    eps: Sequence[float],
    min_samples: int = 4,
    k1: int = 30,
    k2: int = 6,
    cameras: Integers | None = None,
    options: ClusterOptions | None = None,
) -> dict[float, float]:
    """How well each radius of DBSCAN finds the identities of labelled source images, embedded by the adapted network.

    The radius that does best on the source is the one to take on the target.

    Args:
        features: [N, D] of a labelled source split.
        pids: [N].
        eps: radii to try.
        min_samples, k1, k2: see ``dbscan`` and ``jaccard``.
        cameras: [N], with ``options``.
        options: how the target is clustered, in place of ``min_samples``, ``k1`` and ``k2``.

    Returns:
        Adjusted Rand index of each radius; an outlier counts as a cluster of its own.

    Source: HyPASS, Dubourvieux et al., IEEE Access 2021.
    """
    if options is None or cameras is None:
        distance = jaccard(F.normalize(features), k1=k1, k2=k2)
    else:
        min_samples, work = options.min_samples, Work(index=options.index, chunk_mb=options.chunk_mb)
        distance = distances_of(cluster_memberships(features, cameras, options, work), work, limit=max(eps))
    scores = {}
    for radius in eps:
        labels = dbscan(distance, eps=radius, min_samples=min_samples)
        alone = labels < 0
        labels[alone] = labels.max(initial=-1) + 1 + np.arange(alone.sum())
        scores[radius] = rand_index(pids, labels)
    return scores


def report(
    features: torch.Tensor,
    cameras: Integers,
    options: ClusterOptions | None = None,
    *,
    before: Integers | None = None,
    ranks: Ranks = ALONE,
) -> tuple[dict[str, float], NDArray[np.int64]]:
    """All criteria of one embedding of unlabelled images, the same on every rank.

    Args:
        features: [N, D] of the target's training images.
        cameras: [N].
        options: how they are clustered.
        before: [N] clusters that the last evaluation found, for ``stability``.
        ranks: they share the search for neighbours.

    Returns:
        ``silhouette`` (on the distance of the clustering, times the share clustered), ``stability``,
        ``camera_entropy``, ``density``, ``clusters`` and ``clustered``, NaN where there is none; and the clusters [N].

    Raises:
        InputError: features that are empty or not finite; cameras that do not fit.
    """
    options = options or ClusterOptions()
    if len(cameras) != len(features):
        raise InputError(f"{len(features)} features, but {len(cameras)} cameras")
    work = Work(index=options.index, chunk_mb=options.chunk_mb, ranks=ranks)
    rows = cluster_memberships(features, cameras, options, work)
    distance = distances_of(rows, work, limit=options.eps)

    def judge() -> tuple[dict[str, float], NDArray[np.int64]]:
        labels = dbscan(distance, eps=options.eps, min_samples=options.min_samples)
        share = float((labels >= 0).mean())
        values = {
            "silhouette": sampled_silhouette(rows, labels) * share,
            "stability": math.nan if before is None else stability(before, labels),
            "camera_entropy": camera_entropy(labels, cameras),
            "density": neighborhood_density(features),
            "clusters": float(labels.max(initial=-1) + 1),
            "clustered": share,
        }
        return values, labels

    return on_first(ranks, judge)
