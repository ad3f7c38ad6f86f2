"""Retrieval scores as an ignite metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from ignite.metrics import Metric

from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.retrieval import Features, Retrieval, evaluate


class RetrievalMetric(Metric):
    """Collects features of queries and gallery while an ignite engine runs, and scores them when it ends.

    An update is (vectors [B, D], pids [B], cams [B], is_query [B] bool). On several ranks each image must be seen
    by one rank only; the gallery's order, which decides between equal scores, is then rank by rank. The metric's
    value is a dict of fractions, ``mAP``, ``mINP``, ``rank1``, ..., which ignite also lists one by one.

    Args:
        ranks: of the CMC curve.
        output_transform: from the engine's output to an update.
        options: of ``crossreid.engine.evaluation.retrieval.evaluate``.

    Attributes:
        result: the whole ``Retrieval`` of the last run.
    """

    required_output_keys = ("vectors", "pids", "cams", "is_query")

    def __init__(
        self,
        *,
        ranks: Sequence[int] = (1, 5, 10),
        output_transform: Any = lambda output: output,
        **options: Any,
    ) -> None:
        self.ranks, self.options = tuple(ranks), options
        self.result: Retrieval | None = None
        super().__init__(output_transform)

    def reset(self) -> None:
        self._updates: list[tuple[torch.Tensor, ...]] = []

    def update(self, output: Sequence[torch.Tensor]) -> None:
        if len({len(part) for part in output}) != 1 or len(output) != 4:
            shapes = [tuple(part.shape) for part in output]
            raise InputError(
                f"an update of {shapes} is not (vectors [B, D], pids [B], cams [B], is_query [B])"
            )
        self._updates.append(tuple(part.detach().cpu() for part in output))

    def compute(self) -> dict[str, float]:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        everything = [self._updates]
        if several:
            everything = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(everything, self._updates)
        updates = [update for of_rank in everything for update in of_rank]
        if not updates:
            raise InputError("no features were collected: run the engine over queries and gallery first")
        vectors, pids, cams, is_query = (torch.cat(parts) for parts in zip(*updates))
        query, gallery = (Features(vectors[s], pids[s], cams[s]) for s in (is_query.bool(), ~is_query.bool()))
        self.result = result = evaluate(query, gallery, ranks=self.ranks, distributed=several, **self.options)
        cmc = {f"rank{rank}": float(value) for rank, value in zip(result.ranks, result.cmc)}
        return {"mAP": result.mAP, "mINP": result.mINP, **cmc}
