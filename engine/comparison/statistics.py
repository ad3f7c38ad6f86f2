"""Means over seeds and the paired test over queries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Paired:
    """The difference of two systems over the same queries.

    Args:
        difference: mean of second - first.
        low, high: its 95 % confidence interval.
        p: of the paired t-test, two-sided.
        queries: that both have an average precision for.
    """

    difference: float
    low: float
    high: float
    p: float
    queries: int


def mean_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) of finite values; NaN without any, and a deviation of NaN of one."""
    finite = np.array([v for v in values if math.isfinite(v)])
    if not len(finite):
        return math.nan, math.nan
    return float(finite.mean()), float(finite.std(ddof=1)) if len(finite) > 1 else math.nan


def mean_aps(runs: Sequence[Sequence[float | None]]) -> NDArray[np.float64]:
    """Average precision of each query [Q], the mean over runs; NaN where a query has none, empty where runs differ.

    Args:
        runs: lists of one length.
    """
    if not runs or not runs[0] or len({len(aps) for aps in runs}) > 1:
        return np.zeros(0)
    return np.array([[math.nan if ap is None else ap for ap in aps] for aps in runs], dtype=np.float64).mean(
        0
    )


def paired(first: NDArray[np.float64], second: NDArray[np.float64]) -> Paired | None:
    """The paired t-test of two systems over queries; None where their queries differ or nothing can be said.

    Args:
        first, second: average precision [Q] of the same queries, NaN without a match.

    Source: Student; for retrieval Smucker et al., CIKM 2007: its p-values are those of the randomisation test.
    """
    from scipy.stats import ttest_rel

    if len(first) != len(second):
        return None
    both = np.isfinite(first) & np.isfinite(second)
    difference = second[both] - first[both]
    if both.sum() < 2 or not difference.any():
        return None
    if np.ptp(difference) == 0:
        mean = float(difference[0])
        return Paired(mean, mean, mean, 0.0, int(both.sum()))
    result = ttest_rel(second[both], first[both])
    low, high = result.confidence_interval(0.95)
    return Paired(float(difference.mean()), float(low), float(high), float(result.pvalue), int(both.sum()))


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for being several.

    Source: Holm, Scand. J. Statist. 1979.
    """
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = largest
    return corrected


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation of two series; NaN below three finite pairs or where one is constant."""
    from scipy.stats import spearmanr

    pairs = [(a, b) for a, b in zip(one, other) if math.isfinite(a) and math.isfinite(b)]
    if len(pairs) < 3 or len({a for a, _ in pairs}) < 2 or len({b for _, b in pairs}) < 2:
        return math.nan
    return float(spearmanr([a for a, _ in pairs], [b for _, b in pairs]).statistic)
