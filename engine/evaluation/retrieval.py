"""Retrieval scores of query features against gallery features: mAP, CMC, mINP, camera pairs, ROC points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.distances import blocks
from crossreid.engine.evaluation.features import Features, prepare
from crossreid.engine.evaluation.metrics import AVERAGE_PRECISIONS, MetricAccumulator
from crossreid.engine.evaluation.neighbors import expand
from crossreid.engine.log import Bar
from crossreid.engine.shares import Shares

Array = np.ndarray
__all__ = ["CameraPairs", "Features", "Retrieval", "evaluate"]
ROC_RATES = (1e-4, 1e-3, 1e-2)


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
        roc: if asked for, false positive rate -> true positive rate over all pairs that count.
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


def evaluate(
    query: Features,
    gallery: Features,
    *,
    ap: str = "rectangular",
    ranks: Sequence[int] = (1, 5, 10),
    metric: str = "cosine",
    chunk_mb: float = 256,
    device: torch.device | str | None = None,
    camera_pairs: bool = False,
    roc: bool | Sequence[float] = False,
    aqe: int = 0,
    distributed: bool = False,
    progress: bool = False,
) -> Retrieval:
    """Score every query against the gallery.

    Gallery images of the query's identity and camera do not count, junk is dropped, a query without a match is
    skipped. Equal scores are ranked in gallery order; features that agree bit for bit have equal scores. On one
    device with one number of threads the result has the same bits for any ``chunk_mb`` and any number of ranks.

    Args:
        ap: ``rectangular`` (precision at each match) or ``trapezoidal`` (Market-1501's own code).
        ranks: of the CMC curve, from 1; beyond the end of a small gallery the curve is flat.
        metric: ``cosine`` or ``euclidean``.
        chunk_mb: memory for scores in MiB; at least 512 queries (on a GPU 1024) are scored together.
        device: that computes; None: where the features lie.
        camera_pairs: also give the table of query camera x gallery camera.
        roc: false positive rates for which true positive rates are wanted; True: 1e-4, 1e-3, 1e-2.
        aqe: replace each query by its mean with its ``aqe`` nearest gallery images; 0: no query expansion.
        distributed: share the queries among the ranks of the process group. All ranks call with the same features
            and get the same result.
        progress: show a bar.

    Raises:
        InputError: empty sets, shapes that do not fit, NaN or infinite features (the image is named), options
            that do not exist.
    """
    check_options(ap, ranks, roc)
    ready = prepare(query, gallery, metric=metric, device=device)
    rates = rates_of(roc)
    tally = MetricAccumulator(ready.labels, ap=ap, cameras=camera_pairs, roc=rates)
    shares = Shares.of(distributed)
    if aqe:
        ready = replace(
            ready, query=expand(ready.query, ready.gallery, aqe, metric=metric, chunk_mb=chunk_mb)
        )
    start, stop = shares.bounds(len(ready.query), ready.query.tile_rows)
    if len(ready.gallery) and start < stop:
        bar = Bar(stop - start, "scores", enabled=progress and shares.rank == 0)
        for first, block in blocks(
            ready.query,
            ready.gallery,
            metric=metric,
            comparable=bool(rates),
            chunk_mb=chunk_mb,
            start=start,
            stop=stop,
        ):
            tally.add(first, block)
            bar.update(len(block))
        bar.close()
    return summary(tally, ranks, shares)


def check_options(ap: str, ranks: Sequence[int], roc: bool | Sequence[float]) -> None:
    if ap not in AVERAGE_PRECISIONS:
        raise InputError(f"average precision {ap!r} does not exist: choose {' or '.join(AVERAGE_PRECISIONS)}")
    if not len(ranks) or min(ranks) < 1:
        raise InputError(f"ranks {list(ranks)} must be one or more numbers from 1 on")
    if not isinstance(roc, bool) and not all(0 < rate < 1 for rate in roc):
        raise InputError(f"false positive rates {list(roc)} must lie between 0 and 1")


def rates_of(roc: bool | Sequence[float]) -> tuple[float, ...]:
    return ROC_RATES if roc is True else tuple(roc or ())


def summary(tally: MetricAccumulator, ranks: Sequence[int], shares: Shares) -> Retrieval:
    """Means over the scored queries of a finished tally, on all ranks."""
    tally.reduce(shares)
    ap, inp, first = tally.measures.T
    scored = ~np.isnan(ap)
    some = bool(scored.any())
    cmc = [np.mean(first[scored] < rank) if some else np.nan for rank in ranks]
    roc = tally.roc.result(shares) if tally.roc else ()
    return Retrieval(
        ap=tally.ap,
        mAP=float(ap[scored].mean()) if some else float("nan"),
        mINP=float(inp[scored].mean()) if some else float("nan"),
        ranks=tuple(int(rank) for rank in ranks),
        cmc=torch.tensor(cmc, dtype=torch.float64),
        per_query_ap=torch.from_numpy(ap.copy()),
        skipped=int((~scored).sum()),
        camera_pairs=_camera_pairs(tally) if tally.by_camera is not None else None,
        roc=dict(zip(tally.roc.rates, roc)) if tally.roc else None,
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
