"""Similarity thresholds for a wanted false match rate, with confidence intervals, from labels or from cameras."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossreid.engine.deploy.pair_truth import Truth
from crossreid.engine.errors import InputError

RATES = (1e-2, 1e-3, 1e-4)
FEWEST = 10  # pairs of different people above a threshold, below which it shows nothing
BINS = 200  # of the histograms, over -1..1
MOST_ROWS = 4000  # photos that are compared with all others; evenly spread beyond
RESAMPLES = 200
Array = NDArray[Any]


@dataclass(frozen=True)
class Threshold:
    """A threshold for a false match rate.

    Args:
        rate: wanted.
        threshold: the similarity from which on two photos count as one person.
        low, high: 95 % interval of the threshold.
        rate_low, rate_high: 95 % interval of the false match rate that it has.
        hits: share of the pairs of one person at or above it; NaN without such pairs.
    """

    rate: float
    threshold: float
    low: float
    high: float
    rate_low: float
    rate_high: float
    hits: float


@dataclass(frozen=True)
class Calibration:
    """Thresholds and what they rest on.

    Args:
        same, different: [BINS] counts of pairs of one person and of different people by similarity, -1..1.
    """

    thresholds: tuple[Threshold, ...]
    assumption: str
    photos: int
    same_pairs: int
    different_pairs: int
    same: Array
    different: Array

    def summary(self, fmr: float, digest: str) -> dict[str, Any]:
        """What an index, a checkpoint and an export store: ``same`` from here on, ``different`` below."""
        by_rate = {t.rate: t.threshold for t in self.thresholds}
        return {
            "digest": digest,
            "fmr": fmr,
            "same": by_rate[fmr],
            "different": by_rate[min(0.5, 10 * fmr)],
            "thresholds": {f"{t.rate:g}": _values(t) for t in self.thresholds},
            "assumption": self.assumption,
            "same_pairs": self.same_pairs,
            "different_pairs": self.different_pairs,
        }


def _values(t: Threshold) -> dict[str, float | None]:
    values = {
        "threshold": t.threshold, "low": t.low, "high": t.high, "rate_low": t.rate_low, "rate_high": t.rate_high
    }  # fmt: skip
    return {**values, "hits": None if math.isnan(t.hits) else t.hits}


def calibrate(
    vectors: Array,
    truth: Truth,
    rates: Sequence[float] = RATES,
    *,
    wanted: float | None = None,
    seed: int = 0,
) -> Calibration:
    """Thresholds for false match rates.

    The threshold for rate f of n pairs of different people is the score of rank floor(f n) + 1 from above, so that at
    most floor(f n) pairs lie above it. Intervals are percentiles over 200 resamples of identities, of tracks, or of
    stretches of time where people are unknown: pairs that share a person are not independent. They hold for people whom
    the network was trained on as little as those who were drawn.

    Args:
        vectors: [N, D] unit vectors.
        rates: those that the pairs can show are given.
        wanted: the rate that must be among them.

    Raises:
        InputError: too few pairs for the wanted rate.

    Source: Bolle et al., Error analysis of pattern recognition systems, CVIU 2004 (subset bootstrap).
    """
    if wanted is not None:
        rates = (*rates, wanted, min(0.5, 10 * wanted))
    rates = sorted(set(rates), reverse=True)
    rows = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), MOST_ROWS)).astype(np.int64))
    scan = _scan(vectors, truth, rows, max(rates))
    shown = [rate for rate in rates if rate * scan.count >= FEWEST]
    if not shown or (wanted is not None and wanted not in shown):
        rate = wanted or max(rates)
        least = f"{FEWEST / scan.count:.2g}" if scan.count else "none"
        raise InputError(
            f"a false match rate of {rate:g} needs {math.ceil(FEWEST / rate):,} pairs of different people, there are "
            f"{scan.count:,} ({truth.assumption}): the smallest rate they show is {least}"
        )
    thresholds = tuple(_threshold(scan, rate, seed) for rate in shown)
    return Calibration(
        thresholds,
        truth.assumption,
        len(vectors),
        len(scan.same_scores),
        scan.count,
        np.histogram(scan.same_scores, BINS, (-1, 1))[0],
        scan.different,
    )


def shows(truth: Truth, rate: float) -> bool:
    """Whether photos have enough pairs of different people for a false match rate."""
    count = 0
    for row in range(len(truth.groups)):
        count += int(truth.pairs(row)[1][row + 1 :].sum())
        if rate * count >= FEWEST:
            return True
    return False


@dataclass(frozen=True)
class _Scan:
    """All pairs in short: counts, the highest scores of different people, the scores of one person."""

    count: int  # pairs of different people
    tail: Array  # [T] their highest scores, falling
    left: Array  # [T] unit of one photo of each of these pairs
    right: Array  # [T] and of the other
    pairs_of: Array  # [G] pairs of different people by the unit of their first photo
    same_scores: Array
    different: Array
    groups: int


def _scan(vectors: Array, truth: Truth, rows: Array, rate: float) -> _Scan:
    _, units = np.unique(truth.units, return_inverse=True)
    groups = int(units.max()) + 1
    tail, left, right, same_scores = [], [], [], []
    different, pairs_of = np.zeros(BINS, np.int64), np.zeros(groups)
    kept, bound, count = 0, -np.inf, 0
    for row, scores, same, other in _rows(vectors, truth, rows):
        same_scores.append(scores[same])
        values, units_here = scores[other], units[other]
        different += np.histogram(values.clip(-1, 1), BINS, (-1, 1))[0]
        count += len(values)
        pairs_of[units[row]] += len(values)
        high = values > bound
        tail.append(values[high])
        right.append(units_here[high])
        left.append(np.full(int(high.sum()), units[row]))
        kept += len(tail[-1])
        most = int(4 * rate * count) + 100_000
        if kept > 2 * most:
            joined = np.concatenate(tail)
            bound = np.partition(joined, len(joined) - most)[-most]
            good = joined > bound
            tail, left, right = [joined[good]], [np.concatenate(left)[good]], [np.concatenate(right)[good]]
            kept = len(tail[0])
    scores = np.concatenate(tail)
    order = np.argsort(-scores, kind="stable")
    found = np.concatenate(same_scores)
    return _Scan(
        count, scores[order], np.concatenate(left)[order], np.concatenate(right)[order], pairs_of, found, different,
        groups,
    )  # fmt: skip


def _rows(vectors: Array, truth: Truth, rows: Array) -> Iterator[tuple[int, Array, Array, Array]]:
    """Each chosen photo with its similarity to all photos and the masks of its pairs; each pair comes once."""
    chosen = np.zeros(len(vectors), bool)
    chosen[rows] = True
    everything = np.asarray(vectors, np.float32)
    position = np.arange(len(vectors))
    for start in range(0, len(rows), 256):
        block = everything[rows[start : start + 256]] @ everything.T
        for row, scores in zip(rows[start : start + 256].tolist(), block):
            same, other = truth.pairs(row)
            once = ~chosen | (position > row)
            yield row, scores, same & once, other & once


def _threshold(scan: _Scan, rate: float, seed: int) -> Threshold:
    threshold = float(scan.tail[min(int(rate * scan.count + 1e-9), len(scan.tail) - 1)])
    threshold = float(
        np.nextafter(np.float32(threshold), np.float32(2))
    )  # "from here on" leaves that pair out
    rng = np.random.default_rng(seed)
    thresholds, rates = np.empty(RESAMPLES), np.empty(RESAMPLES)
    reached = int(np.searchsorted(-scan.tail, -threshold, "right"))
    for sample in range(RESAMPLES):
        weight = np.bincount(rng.integers(0, scan.groups, scan.groups), minlength=scan.groups).astype(
            np.float64
        )
        pairs = weight[scan.left] * np.where(scan.left == scan.right, 1.0, weight[scan.right])
        total = float((scan.pairs_of * weight).sum())  # the second photo's weight is 1 in the mean
        above = np.cumsum(pairs)
        place = int(np.searchsorted(above, rate * total, "right"))
        thresholds[sample] = scan.tail[min(place, len(scan.tail) - 1)]
        rates[sample] = (above[reached - 1] if reached else 0.0) / max(total, 1.0)
    low, high = np.percentile(thresholds, [2.5, 97.5])
    rate_low, rate_high = np.percentile(rates, [2.5, 97.5])
    hits = float(np.mean(scan.same_scores >= threshold)) if len(scan.same_scores) else math.nan
    return Threshold(rate, threshold, float(low), float(high), float(rate_low), float(rate_high), hits)
