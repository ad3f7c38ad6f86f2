"""From score blocks to retrieval measures, without sorting the gallery.

Only the positions of a query's few matches enter its scores. A match's position is the number of gallery images
above it: those with a greater score, and those with an equal score that stand earlier in the gallery.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from crossreid.engine.distributed import Ranks

Array = np.ndarray
AVERAGE_PRECISIONS = ("rectangular", "trapezoidal")


@dataclass(frozen=True)
class Pairs:
    """Gallery images of the query's own identity, for a block of queries.

    Args:
        rows, columns: [P] query within the block and gallery position, ascending.
        same_camera: [P] of the query's camera as well: such pairs do not count.
    """

    rows: Array
    columns: Array
    same_camera: Array


class Labels:
    """Identities and cameras of queries and gallery, indexed for fast look-up of equal identities."""

    def __init__(self, query: tuple[Array, Array], gallery: tuple[Array, Array]) -> None:
        (self.pids, self.cams), (gallery_pids, self.gallery_cams) = query, gallery
        self._order = np.argsort(gallery_pids, kind="stable")
        ordered = gallery_pids[self._order]
        self._first = np.searchsorted(ordered, self.pids, "left")
        self._count = np.searchsorted(ordered, self.pids, "right") - self._first

    def pairs(self, start: int, stop: int) -> Pairs:
        count = self._count[start:stop]
        rows = np.repeat(np.arange(len(count)), count)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        columns = self._order[np.repeat(self._first[start:stop], count) + within]
        return Pairs(rows, columns, self.gallery_cams[columns] == self.cams[start:stop][rows])


def count_above(scores: torch.Tensor, rows: Array, columns: Array) -> Array:
    """How many entries of its row stand above each chosen entry: greater, or equal and further left.

    Args:
        scores: [q, G]; entries that do not count are -inf.
        rows, columns: [P] the chosen entries, rows ascending.

    Returns:
        [P] int64.
    """
    if scores.device.type != "cpu":
        return _count_on_device(scores, rows, columns)
    values = scores.numpy()
    result = np.empty(len(rows), np.int64)
    present, starts = np.unique(rows, return_index=True)
    ends = np.append(starts[1:], len(rows))
    workers = max(1, min(torch.get_num_threads(), len(present)))

    def count(worker: int) -> None:
        for row, start, end in zip(present[worker::workers], starts[worker::workers], ends[worker::workers]):
            result[start:end] = _count_row(values[row], columns[start:end])

    with ThreadPoolExecutor(workers) as pool:  # numpy sorts without holding the interpreter
        list(pool.map(count, range(workers)))
    return result


def _count_row(row: Array, columns: Array) -> Array:
    chosen = row[columns]  # [M]
    near = np.flatnonzero(row >= chosen.min())  # nothing else can stand above one of them
    row, columns = row[near], np.searchsorted(near, columns)
    ordered = np.sort(row)
    above = len(row) - np.searchsorted(ordered, chosen, "right")
    at_least = len(row) - np.searchsorted(ordered, chosen, "left")
    for i in np.flatnonzero(at_least - above > 1):  # another entry has the same score
        above[i] += np.count_nonzero(row[: columns[i]] == chosen[i])
    return above


def _count_on_device(scores: torch.Tensor, rows: Array, columns: Array) -> Array:
    position = torch.arange(scores.shape[1], device=scores.device)
    counts = []
    step = max(1, 2**26 // scores.shape[1])  # pairs at a time
    for left in range(0, len(rows), step):
        row = torch.from_numpy(rows[left : left + step]).to(scores.device)
        column = torch.from_numpy(columns[left : left + step]).to(scores.device)[:, None]
        entries = scores[row]  # [pairs, G]
        chosen = entries.gather(1, column)
        above = (entries > chosen) | ((entries == chosen) & (position < column))
        counts.append(above.sum(1).cpu())
    return torch.cat(counts).numpy() if counts else np.empty(0, np.int64)


def average_precision(group: Array, above: Array, groups: int, ap: str) -> tuple[Array, Array, Array]:
    """Average precision, inverse negative penalty and first hit of each group of matches.

    Args:
        group: [P] the query (or query and camera) of each match.
        above: [P] entries above it, 0 for the best.
        groups: number of groups.
        ap: ``rectangular``: precision at each match; ``trapezoidal``: its mean with the precision just before.

    Returns:
        Three [groups] float64; NaN where a group has no match.

    Source: Zheng et al., ICCV 2015 (mAP, CMC); Ye et al., TPAMI 2021 (INP).
    """
    order = np.lexsort((above, group))
    group, above = group[order], above[order]
    count = np.bincount(group, minlength=groups)
    end = np.cumsum(count)
    hit = np.arange(1, len(group) + 1) - np.repeat(end - count, count)  # 1 for a group's first match
    value = hit / (above + 1)
    if ap == "trapezoidal":
        value = (value + np.where(above > 0, (hit - 1) / np.maximum(above, 1), 1.0)) / 2
    found = count > 0
    result = np.full((3, groups), np.nan)
    result[0, found] = np.bincount(group, value, groups)[found] / count[found]
    result[1, found] = count[found] / (above[end[found] - 1] + 1)
    result[2, found] = above[(end - count)[found]]
    return result[0], result[1], result[2]


class Roc:
    """Keeps the scores of all matches, and of the wrong pairs only the largest.

    At a false positive rate f of n wrong pairs, floor(f n) of them may pass: the threshold is the next largest
    score. Nothing is binned. Memory is 4 bytes x the largest f x pairs, a few times over while they are sifted.

    Args:
        rates: false positive rates in (0, 1).
        pairs: of all queries with all gallery images, on all ranks together; an upper bound of n.
    """

    def __init__(self, rates: tuple[float, ...], pairs: int) -> None:
        self.rates = rates
        self._limit = int(max(rates) * pairs) + 1
        self._matches = [np.empty(0, np.float32)]
        self._wrong = [np.empty(0, np.float32)]
        self._count = self._size = 0  # wrong pairs met, and kept
        self._bound = -np.inf
        self.thresholds: tuple[
            float, ...
        ] = ()  # scores above which a pair passes, once ``result`` was called

    def add(self, scores: torch.Tensor, rows: Array, columns: Array) -> None:
        """Take in a block [q, G], comparable between queries, with its matches [P]; -inf entries do not count."""
        place = torch.from_numpy(rows).to(scores.device), torch.from_numpy(columns).to(scores.device)
        self._matches.append(scores[place].cpu().numpy())
        scores[place] = -torch.inf
        for part in scores.split(max(1, 2**22 // scores.shape[1])):
            self._count += int((part > -torch.inf).sum())
            self._wrong.append(part[part > self._bound].cpu().numpy())
            self._size += len(self._wrong[-1])
            if self._size > 2 * self._limit + 2**20:
                self._shrink()

    def _shrink(self) -> None:
        """Forget wrong pairs that no threshold can need."""
        values = np.concatenate(self._wrong)
        if len(values) > self._limit:
            values = np.partition(values, len(values) - self._limit)[-self._limit :].copy()
            self._bound = values.min()
        self._wrong, self._size = [values], len(values)

    def result(self, ranks: Ranks) -> tuple[float, ...]:
        """True positive rate at each false positive rate over all ranks; NaN without a match or a wrong pair."""
        self._shrink()
        wrong = np.sort(ranks.gather(self._wrong[0]))[::-1]
        matches = np.concatenate(self._matches)
        count = int(ranks.total(np.array([float(self._count)]))[0])
        positives = int(ranks.total(np.array([float(len(matches))]))[0])
        if not count or not positives:
            self.thresholds = (float("nan"),) * len(self.rates)
            return self.thresholds
        self.thresholds = tuple(float(wrong[int(rate * count + 1e-6)]) for rate in self.rates)
        passed = [np.sum(matches > wrong[int(rate * count + 1e-6)]) for rate in self.rates]
        return tuple((ranks.total(np.array(passed, np.float64)) / positives).tolist())


class MetricAccumulator:
    """Collects what score blocks say about their queries; shared by plain and re-ranked evaluation.

    Args:
        labels: of the queries and of the gallery without junk.
        ap: definition of average precision.
        cameras: also score each gallery camera by itself.
        roc: false positive rates for which true positive rates are wanted.

    Attributes:
        measures: [Q, 3] average precision, inverse negative penalty, images above the first match; NaN: not scored.
        by_camera: [Q, C, 2] average precision and images above the first match in each gallery camera.
    """

    def __init__(
        self, labels: Labels, *, ap: str, cameras: bool = False, roc: tuple[float, ...] = ()
    ) -> None:
        self.labels, self.ap = labels, ap
        self.measures = np.full((len(labels.pids), 3), np.nan)
        self.cameras = np.unique(labels.gallery_cams)
        self.by_camera = np.full((len(labels.pids), len(self.cameras), 2), np.nan) if cameras else None
        self.roc = Roc(roc, len(labels.pids) * len(labels.gallery_cams)) if roc else None

    def add(self, start: int, scores: torch.Tensor) -> None:
        """Score queries from ``start`` on by their block [q, G], which is modified."""
        pairs, labels = self.labels.pairs(start, start + len(scores)), self.labels
        rows, columns = torch.from_numpy(pairs.rows), torch.from_numpy(pairs.columns)
        own = torch.from_numpy(pairs.same_camera)
        scores[rows[own].to(scores.device), columns[own].to(scores.device)] = -torch.inf
        match = ~pairs.same_camera
        found, places = pairs.rows[match], pairs.columns[match]
        above = count_above(scores, found, places)
        block = slice(start, start + len(scores))
        self.measures[block] = np.stack(average_precision(found, above, len(scores), self.ap), 1)
        if self.by_camera is not None:
            for c, camera in enumerate(self.cameras):
                view = np.flatnonzero(labels.gallery_cams == camera)
                here = labels.gallery_cams[places] == camera
                part = scores[:, torch.from_numpy(view).to(scores.device)]
                above = count_above(part, found[here], np.searchsorted(view, places[here]))
                average, _, first = average_precision(found[here], above, len(scores), self.ap)
                self.by_camera[block, c] = np.stack((average, first), 1)
        if self.roc is not None:
            self.roc.add(scores, found, places)

    def reduce(self, ranks: Ranks) -> None:
        """Join what several processes scored, each its own queries."""
        for values in (self.measures, self.by_camera):
            if values is not None:
                scored = ranks.total((~np.isnan(values)).astype(np.float64))
                values[:] = np.where(scored > 0, ranks.total(np.nan_to_num(values)), np.nan)
