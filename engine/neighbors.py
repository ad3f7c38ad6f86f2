"""Nearest neighbours by chunked matrix products, and query expansion with them."""

from __future__ import annotations

import torch

from engine.similarity import Rows, blocks, inverse_root


def largest(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest entries of each row, in falling order; of equal ones the leftmost first.

    Args:
        scores: [q, G], k <= G.

    Returns:
        Values and columns [q, k].
    """
    values, columns = scores.topk(min(k + 1, scores.shape[1]))
    columns, order = columns.sort(1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    if k < values.shape[1]:
        for row in (
            (values[:, k - 1] == values[:, k]).nonzero().flatten().tolist()
        ):  # a tie at the end: leftmost in
            last = values[row, k - 1]
            above = int((values[row] > last).sum())
            columns[row, above:k] = (scores[row] == last).nonzero().flatten()[: k - above]
    return values[:, :k], columns[:, :k]


def expand(queries: Rows, gallery: Rows, count: int, *, metric: str, chunk_mb: float = 256) -> Rows:
    """Average query expansion: each query becomes the mean of itself and its nearest gallery images.

    Identities and cameras play no part. With the cosine metric, vectors of length 1 are averaged.

    Args:
        count: gallery images that join the query.

    Returns:
        The expanded queries [Q, D].

    Source: Chum et al., ICCV 2007 (average query expansion).
    """
    count = min(count, len(gallery))
    if not count:
        return queries
    expanded = []
    for start, block in blocks(queries, gallery, metric=metric, chunk_mb=chunk_mb):
        _, nearest = largest(block, count)
        for rows, columns in zip(torch.arange(start, start + len(block)).split(256), nearest.split(256)):
            own, others = (
                queries[rows],
                gallery[columns.flatten()].view(*columns.shape, -1),
            )  # [q, D], [q, count, D]
            if metric == "cosine":
                own = own * inverse_root(queries.squares[rows])[:, None]
                others = others * inverse_root(gallery.squares[columns])[..., None]
            expanded.append((own + others.sum(1)) / (1 + count))
    return Rows(torch.cat(expanded), dtype=queries.dtype)
