"""k-reciprocal neighbour sets and their overlap, as sparse rows: memory grows with N x k, never with N x N."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, triu

TABLE = 2**22  # bytes of a piece of a dense table
PIECE = 2**19  # expanded entries worked on together


def neighbor_matrix(index: torch.Tensor, dtype: Any = np.int32) -> csr_array:
    """Row i holds a 1 for each of the neighbours of point i, index [N, k]."""
    count, k = index.shape
    starts = np.arange(0, count * k + 1, k)
    return csr_array((np.ones(count * k, dtype), index.numpy().ravel(), starts), shape=(count, count))


def reciprocal_sets(index: torch.Tensor, half: int) -> csr_array:
    """The expanded k-reciprocal set of each point.

    R(i, k) holds the mutual neighbours among the first k. To R(i, k) is added every R(j, half) of a member j that
    has more than two thirds of itself in R(i, k).

    Args:
        index: [N, k] neighbours, the point itself first.
        half: length of the shorter lists.

    Returns:
        [N, N] with a positive entry for each member, columns rising.

    Source: Zhong et al., CVPR 2017, equations 2 and 3.
    """
    near, short = (neighbor_matrix(part) for part in (index, index[:, :half]))
    near, short = near.multiply(near.T).tocsr(), short.multiply(short.T).tocsr()  # mutual neighbours
    inside = (
        (near @ short).multiply(near).tocsr()
    )  # |R(i, k) and R(j, half)| of members j; short is symmetric
    size = np.diff(short.indptr)[inside.indices]
    inside.data = (3 * inside.data > 2 * size).astype(np.int32)
    sets = (near + inside @ short).tocsr()
    sets.sort_indices()
    return sets


def distinct_pairs(sets: csr_array) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The unordered pairs among the entries of a square matrix: most members of a set have the point in theirs.

    Returns:
        Both points of each pair [P], one <= other, and the pair of each entry [E].
    """
    upper = triu(sets + sets.T, format="coo")
    numbered = csr_array((np.arange(1, upper.nnz + 1), (upper.row, upper.col)), shape=sets.shape)
    pattern = csr_array((np.ones(sets.nnz, np.int64), sets.indices, sets.indptr), shape=sets.shape)
    entries = (numbered + triu(numbered, 1).T).tocsr().multiply(pattern).tocsr()
    entries.sort_indices()
    one, other = (torch.from_numpy(part.astype(np.int64)) for part in (upper.row, upper.col))
    return one, other, torch.from_numpy(entries.data - 1)


def query_expansion(matrix: csr_array, index: torch.Tensor) -> csr_array:
    """Each row becomes the mean of the rows that ``index`` [N, k] names for it (local query expansion)."""
    mean = (neighbor_matrix(index, matrix.dtype) @ matrix).tocsr()
    mean.data /= index.shape[1]
    mean.sort_indices()
    return mean


def overlaps(
    matrix: csr_array, inverse: csr_array, rows: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Sum over r of min(V_ir, V_jr) for chosen rows i and all rows j of the matrix that ``inverse`` transposes.

    Args:
        matrix: V of the rows i.
        inverse: V transposed, of the rows j, in rows.
        rows: [n] rows i, ascending.

    Yields:
        Some of the rows i, and their sums [rows, J], dense; the rows come in order.
    """
    starts, columns, values = _tensors(matrix)
    other_starts, other_columns, other_values = _tensors(inverse)
    width = inverse.shape[1]
    before = torch.cat([torch.zeros(1, dtype=torch.int64), other_starts.diff()[columns].cumsum(0)])
    work = before[starts[rows + 1]] - before[starts[rows]]  # expanded entries of each row
    piece = torch.maximum(work.cumsum(0) // PIECE, torch.arange(len(rows)) // max(1, TABLE // 8 // width))
    for own in rows.split(piece.unique_consecutive(return_counts=True)[1].tolist()):
        row, entry = _spread(starts, own)
        which, other = _spread(other_starts, columns[entry])
        smaller = torch.minimum(values[entry].index_select(0, which), other_values.index_select(0, other))
        place = (row * width).index_select(0, which).add_(other_columns.index_select(0, other))
        sums = torch.bincount(place, smaller, minlength=len(own) * width)
        yield own, sums.view(len(own), width).to(values.dtype)


def _tensors(matrix: csr_array) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where each row begins [N + 1], columns and values [E]."""
    starts, columns = (torch.from_numpy(part.astype(np.int64)) for part in (matrix.indptr, matrix.indices))
    return starts, columns, torch.from_numpy(matrix.data)


def _spread(starts: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All entries of chosen rows one after the other: for each which choice [T] it came from and the entry [T]."""
    count = starts[rows + 1] - starts[rows]
    choice = torch.arange(len(rows)).repeat_interleave(count)
    before = starts[rows] - (count.cumsum(0) - count)
    return choice, before.index_select(0, choice).add_(torch.arange(len(choice)))
