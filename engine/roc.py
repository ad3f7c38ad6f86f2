"""True positive rates at small false positive rates over all pairs, exactly, from a stream of score blocks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

Array = np.ndarray


class Roc:
    """Keeps the scores of all matches and only the largest scores of the others.

    The threshold for a false positive rate f of n wrong pairs is their (floor(f n) + 1)-th largest score, so that
    memory is 4 bytes x the largest f x n, three times over for a moment. Nothing is binned.

    Args:
        rates: false positive rates in (0, 1).
    """

    def __init__(self, rates: tuple[float, ...]) -> None:
        self.rates = rates
        self.matches: list[Array] = []
        self.wrong = 0  # pairs that are no match
        self._kept: list[Array] = []
        self._size = 0
        self._bound = -np.inf

    def add(self, scores: torch.Tensor, rows: Array, columns: Array) -> None:
        """Take in a block [q, G], comparable between queries, with its matches; -inf entries do not count."""
        place = torch.from_numpy(rows).to(scores.device), torch.from_numpy(columns).to(scores.device)
        self.matches.append(scores[place].cpu().numpy())
        scores[place] = -torch.inf
        step = max(1, 2**22 // scores.shape[1])
        for top in range(0, len(scores), step):
            part = scores[top : top + step]
            self.wrong += int((part > -torch.inf).sum())
            values = part[part > self._bound].cpu().numpy()
            self._kept.append(values)
            self._size += len(values)
            if self._size > 2 * self._limit() + 2**20:
                self._shrink()

    def _limit(self) -> int:
        return int(max(self.rates) * self.wrong) + 1

    def _shrink(self) -> None:
        """Forget wrong pairs that no threshold can need; the bound only rises, since the rates are of all pairs."""
        values = np.concatenate(self._kept)
        if len(values) > self._limit():
            values = np.partition(values, len(values) - self._limit())[-self._limit() :]
        self._kept, self._size = [values], len(values)
