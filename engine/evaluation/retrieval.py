"""Retrieval scores of query features against gallery features: mAP, CMC, mINP, camera pairs, ROC points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from crossreid.engine.distributed import Ranks, group
from crossreid.engine.evaluation.camera_norm import normalize_sets
from crossreid.engine.evaluation.distances import blocks
from crossreid.engine.evaluation.features import Features, prepare
from crossreid.engine.evaluation.metrics import MetricAccumulator
from crossreid.engine.evaluation.neighbors import expand
from crossreid.engine.evaluation.options import RetrievalOptions
from crossreid.engine.log import progress_bar

__all__ = ["CameraPairs", "Features", "Retrieval", "evaluate"]


@dataclass(frozen=True)
class CameraPairs:
    """Scores of the queries of one camera against the gallery of one camera, which hold no other.

    Args:
        query_cams, gallery_cams: [A], [C] camera numbers of rows and columns.
        mAP, rank1: [A, C] fractions; NaN where no query has a match.
        queries: [A, C] queries with a match.
    """

    query_cams: torch.Tensor
    gallery_cams: torch.Tensor
    mAP: torch.Tensor
    rank1: torch.Tensor
    queries: torch.Tensor


@dataclass(frozen=True)
class Retrieval:
    """What an evaluation found; fractions in 0..1, means over the queries that have a match.

    Args:
        ap: the definition of average precision.
        mAP, mINP: mean average precision, mean inverse negative penalty; NaN if no query has a match.
        ranks, cmc: [R] cmc[i] is the share of queries with a match among their first ranks[i] images.
        per_query_ap: [Q] float64; NaN for a skipped query.
        skipped: number of queries without a match.
        camera_pairs: if asked for.
        camera_norm: each camera's features were normalised first.
        roc: if asked for, false positive rate -> true positive rate over all pairs that count.
        roc_scores: false positive rate -> the score above which pairs pass: cosine similarity, or minus the
            (squared) distance.
    """

    ap: str
    mAP: float
    mINP: float
    ranks: tuple[int, ...]
    cmc: torch.Tensor
    per_query_ap: torch.Tensor
    skipped: int
    camera_pairs: CameraPairs | None = None
    roc: dict[float, float] | None = None
    camera_norm: bool = False
    roc_scores: dict[float, float] | None = None


def evaluate(
    query: Features,
    gallery: Features,
    options: RetrievalOptions | None = None,
    *,
    device: torch.device | str | None = None,
    distributed: bool = False,
    progress: bool = False,
    **keys: Any,
) -> Retrieval:
    """Score every query against the gallery.

    Gallery images of the query's identity and camera do not count, junk is dropped, a query without a match is
    skipped. Equal scores are ranked in gallery order; features that agree bit for bit have equal scores. On one
    device with one number of threads the result has the same bits for any ``chunk_mb`` and any number of ranks.

    Args:
        options: what is asked for.
        device: that computes; None: where the features lie.
        distributed: share the queries among the ranks of the process group. All ranks call with the same features
            and get the same result.
        progress: show a bar.
        keys: of ``RetrievalOptions``, in place of ``options``: ap, ranks, metric, ...

    Raises:
        InputError: empty sets, shapes that do not fit, NaN or infinite features (the image is named), options
            that do not exist.
    """
    options = options or RetrievalOptions(**keys)
    if options.camera_norm:
        query, gallery = normalize_sets(query, gallery)
    ready = prepare(query, gallery, metric=options.metric, device=device)
    tally = MetricAccumulator(ready.labels, ap=options.ap, cameras=options.camera_pairs, roc=options.rates)
    ranks = group(distributed)
    score: dict[str, Any] = {"metric": options.metric, "chunk_mb": options.chunk_mb}
    if options.aqe:
        ready = replace(ready, query=expand(ready.query, ready.gallery, options.aqe, **score))
    start, stop = ranks.bounds(len(ready.query), ready.query.tile_rows)
    if len(ready.gallery) and start < stop:
        share: dict[str, Any] = {"start": start, "stop": stop, "comparable": bool(options.rates)}
        with progress_bar(stop - start, "scores", enabled=progress and ranks.first) as bar:
            for first, block in blocks(ready.query, ready.gallery, **score, **share):
                tally.add(first, block)
                bar.update(len(block))
    return replace(summary(tally, options.ranks, ranks), camera_norm=options.camera_norm)


def summary(tally: MetricAccumulator, cmc_ranks: Sequence[int], ranks: Ranks) -> Retrieval:
    """Means over the scored queries of a finished tally, on all ranks."""
    tally.reduce(ranks)
    ap, inp, first = tally.measures.T
    scored = ~np.isnan(ap)
    some = bool(scored.any())
    cmc = [np.mean(first[scored] < rank) if some else np.nan for rank in cmc_ranks]
    roc = tally.roc.result(ranks) if tally.roc else ()
    return Retrieval(
        ap=tally.ap,
        mAP=float(ap[scored].mean()) if some else float("nan"),
        mINP=float(inp[scored].mean()) if some else float("nan"),
        ranks=tuple(int(rank) for rank in cmc_ranks),
        cmc=torch.tensor(cmc, dtype=torch.float64),
        per_query_ap=torch.from_numpy(ap.copy()),
        skipped=int((~scored).sum()),
        camera_pairs=_camera_pairs(tally) if tally.by_camera is not None else None,
        roc=dict(zip(tally.roc.rates, roc)) if tally.roc else None,
        roc_scores=dict(zip(tally.roc.rates, tally.roc.thresholds)) if tally.roc else None,
    )


def _camera_pairs(tally: MetricAccumulator) -> CameraPairs:
    assert tally.by_camera is not None
    cameras = np.unique(tally.labels.cams)
    table = np.full((3, len(cameras), len(tally.cameras)), np.nan)  # mAP, Rank-1, queries
    for a, camera in enumerate(cameras):
        ap, first = np.moveaxis(tally.by_camera[tally.labels.cams == camera], 2, 0)  # [q, C]
        scored = ~np.isnan(ap)
        table[2, a] = count = scored.sum(0)
        with np.errstate(invalid="ignore"):
            table[0, a] = np.where(scored, ap, 0).sum(0) / count
            table[1, a] = (scored & (first < 1)).sum(0) / count
    mean, rank1, queries = map(torch.from_numpy, table)
    return CameraPairs(
        torch.from_numpy(cameras), torch.from_numpy(tally.cameras), mean, rank1, queries.long()
    )
