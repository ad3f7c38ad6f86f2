"""DBSCAN on a distance matrix, dense or sparse."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, eye_array

from crossreid.engine.errors import InputError

Distance: TypeAlias = torch.Tensor | NDArray[Any] | csr_array  # [N, N]


def dbscan(distance: Distance, *, eps: float, min_samples: int) -> NDArray[np.int64]:
    """DBSCAN on a precomputed distance, of which only the pairs within ``eps`` are looked at.

    A point with ``min_samples`` points within ``eps``, itself among them, is a core point. Clusters are the connected
    core points, numbered by their first point; a border point takes the lowest-numbered cluster within reach.

    Args:
        distance: symmetric [N, N]; dense, or sparse, where absent entries are 1.
        eps: radius, inclusive; below 1 if the distance is sparse.
        min_samples: 1 or more.

    Returns:
        [N] cluster of each point, 0 to C - 1; -1: outlier.

    Raises:
        InputError: a distance that is not square, options out of range.

    Source: Ester et al., KDD 1996.

    Examples:
        >>> dbscan(np.abs(np.subtract.outer([0, 0.1, 5, 5.1, 9], [0, 0.1, 5, 5.1, 9])), eps=0.5, min_samples=2)
        array([ 0,  0,  1,  1, -1])
    """
    from sklearn.cluster import DBSCAN

    if min_samples < 1 or not eps > 0:
        raise InputError(
            f"DBSCAN with eps {eps} and min_samples {min_samples}: give eps > 0, min_samples >= 1"
        )
    if eps >= 1 and not is_dense(distance):
        raise InputError(
            f"eps is {eps}: a Jaccard distance needs eps below 1, for most pairs have distance 1"
        )
    graph = to_csr(distance, eps)
    graph.data[:] = 1
    graph = graph + graph.T + eye_array(graph.shape[0], format="csr")
    graph.data[:] = eps / 2  # whatever is stored is within reach: how near does not matter
    return np.asarray(
        DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit(graph).labels_, np.int64
    )


def is_dense(distance: Distance) -> bool:
    """Whether every entry is stored."""
    if isinstance(distance, torch.Tensor):
        return distance.layout == torch.strided
    return isinstance(distance, np.ndarray)


def to_csr(distance: Distance, limit: float = math.inf) -> csr_array:
    """The entries of a distance up to a limit, in float64, zeros among them.

    Raises:
        InputError: not a square matrix.
    """
    if len(distance.shape) != 2 or distance.shape[0] != distance.shape[1]:
        raise InputError(f"a distance must be [N, N], got {tuple(distance.shape)}")
    if isinstance(distance, torch.Tensor) and distance.layout == torch.strided:
        distance = distance.detach().cpu().numpy()
    if isinstance(distance, np.ndarray):
        step = max(1, 2**24 // max(1, len(distance)))
        found = [np.nonzero(distance[a : a + step] <= limit) for a in range(0, len(distance), step)]
        rows = np.concatenate([row + i * step for i, (row, _) in enumerate(found)])
        columns = np.concatenate([column for _, column in found])
        values = distance[rows, columns]
    elif isinstance(distance, torch.Tensor):
        coo = distance.to_sparse_coo().coalesce().cpu()
        (rows, columns), values = coo.indices().numpy(), coo.values().numpy()
    else:
        coo = coo_array(distance)
        rows, columns, values = coo.row, coo.col, coo.data
    if not math.isinf(limit):
        near = values <= limit
        rows, columns, values = rows[near], columns[near], values[near]
    return csr_array((values.astype(np.float64), (rows, columns)), shape=tuple(distance.shape))
