"""k-reciprocal neighbour sets and their overlap, as sparse rows: memory grows with N x k, never with N x N."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from crossreid.engine.log import Bar

TABLE = 2**26  # bytes of a piece of a dense table
PIECE = 2**21  # expanded entries worked on together


@dataclass(frozen=True)
class Sparse:
    """Rows of a matrix [N, M] without its zeros.

    Args:
        starts: [N + 1] where each row begins among the entries.
        columns, values: [E], columns rising within a row.
        width: M.
    """

    starts: torch.Tensor
    columns: torch.Tensor
    values: torch.Tensor
    width: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows(self) -> torch.Tensor:
        """Row of each entry [E]."""
        return torch.arange(len(self)).repeat_interleave(self.starts.diff())

    def transposed(self) -> Sparse:
        columns, order = self.columns.sort(stable=True)
        return Sparse(_starts(columns, self.width), self.rows()[order], self.values[order], len(self))


def _starts(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Where each row begins among sorted row numbers [E]: [count + 1]."""
    return torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(rows, minlength=count).cumsum(0)])


def _spread(starts: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All entries of chosen rows one after the other: for each which choice [T] it came from and the entry [T]."""
    count = starts[rows + 1] - starts[rows]
    choice = torch.arange(len(rows)).repeat_interleave(count)
    return choice, torch.arange(len(choice)) + (starts[rows] - (count.cumsum(0) - count))[choice]


def mutual(index: torch.Tensor) -> torch.Tensor:
    """Which of each point's neighbours have the point among theirs.

    Args:
        index: [N, k] neighbours.

    Returns:
        [N, k] bool.
    """
    own = torch.arange(len(index))[:, None, None]
    step = max(1, PIECE // index.shape[1] ** 2)
    return torch.cat([(index[i] == o).any(2) for i, o in zip(index.split(step), own.split(step))])


def reciprocal_sets(
    index: torch.Tensor, half: int, *, progress: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The expanded k-reciprocal set of each point.

    R(i, k) holds the mutual neighbours among the first k. To R(i, k) is added every R(j, half) of a member j that
    has more than two thirds of itself in R(i, k).

    Args:
        index: [N, k] neighbours, the point itself first.
        half: length of the shorter lists.

    Returns:
        Starts [N + 1] and members of each set, rising.

    Source: Zhong et al., CVPR 2017, equations 2 and 3.
    """
    count = len(index)
    near, short = mutual(index), index[:, :half].contiguous()
    near_short = mutual(short)
    size = near_short.sum(1)
    step = max(1, TABLE // count)
    bar = Bar(count, "re-ranking, reciprocal sets", enabled=progress)
    parts = []
    for rows in torch.arange(count).split(step):
        member = torch.zeros(len(rows), count, dtype=torch.bool)
        row, place = near[rows].nonzero(as_tuple=True)
        other = index[rows[row], place]  # [n] members of R(i, k)
        member[row, other] = True
        inside = (member[row[:, None], short[other]] & near_short[other]).sum(1)  # [n]
        chosen = 3 * inside > 2 * size[other]
        row, other = row[chosen], other[chosen]
        new, place = near_short[other].nonzero(as_tuple=True)
        member[row[new], short[other[new], place]] = True
        row, column = member.nonzero(as_tuple=True)
        parts.append((row + rows[0], column))
        bar.update(len(rows))
    bar.close()
    members = torch.cat([column for _, column in parts])
    return _starts(torch.cat([row for row, _ in parts]), count), members


def query_expansion(matrix: Sparse, index: torch.Tensor) -> Sparse:
    """Each row becomes the mean of the rows that ``index`` [N, k] names for it (local query expansion)."""
    rows, columns, values = [], [], []
    step = max(1, int(PIECE / index.shape[1] / max(1.0, len(matrix.columns) / len(matrix))))
    for own in torch.arange(len(matrix)).split(step):
        choice, entry = _spread(matrix.starts, index[own].flatten())
        key = own[choice // index.shape[1]] * matrix.width + matrix.columns[entry]
        key, group = key.unique(return_inverse=True)
        total = torch.zeros(len(key), dtype=matrix.values.dtype)
        values.append(total.index_add_(0, group, matrix.values[entry]) / index.shape[1])
        rows.append(key // matrix.width)
        columns.append(key % matrix.width)
    return Sparse(_starts(torch.cat(rows), len(matrix)), torch.cat(columns), torch.cat(values), matrix.width)


def overlaps(
    matrix: Sparse, inverse: Sparse, rows: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Sum over r of min(V_ir, V_jr) for chosen rows i and all rows j of the matrix that ``inverse`` transposes.

    Args:
        matrix: V of the rows i.
        inverse: V transposed, of the rows j.
        rows: [n] rows i.

    Yields:
        Some of the rows i, and their sums [rows, J], dense; the rows come in order.
    """
    size = inverse.starts.diff()
    work = torch.zeros(len(matrix), dtype=torch.int64).index_add_(0, matrix.rows(), size[matrix.columns])[
        rows
    ]
    piece = torch.maximum(
        work.cumsum(0) // PIECE, torch.arange(len(rows)) // max(1, TABLE // 8 // inverse.width)
    )
    for own in rows.split(piece.unique_consecutive(return_counts=True)[1].tolist()):
        row, entry = _spread(matrix.starts, own)
        which, other = _spread(inverse.starts, matrix.columns[entry])
        smaller = torch.minimum(matrix.values[entry][which], inverse.values[other])
        place = row[which] * inverse.width + inverse.columns[other]
        sums = torch.bincount(place, smaller, minlength=len(own) * inverse.width)
        yield own, sums.view(len(own), inverse.width).to(matrix.values.dtype)
