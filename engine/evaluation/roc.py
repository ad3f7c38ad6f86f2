"""True positive rates at small false positive rates over all pairs, exactly, from a stream of score blocks."""

from __future__ import annotations

import numpy as np
import torch

from crossreid.engine.shares import Shares

Array = np.ndarray


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

    def result(self, shares: Shares) -> tuple[float, ...]:
        """True positive rate at each false positive rate over all ranks; NaN without a match or a wrong pair."""
        self._shrink()
        wrong = np.sort(shares.gather(self._wrong[0]))[::-1]
        matches = np.concatenate(self._matches)
        count = int(shares.total(np.array([float(self._count)]))[0])
        positives = int(shares.total(np.array([float(len(matches))]))[0])
        if not count or not positives:
            return (float("nan"),) * len(self.rates)
        passed = [np.sum(matches > wrong[int(rate * count + 1e-6)]) for rate in self.rates]
        return tuple((shares.total(np.array(passed, np.float64)) / positives).tolist())
