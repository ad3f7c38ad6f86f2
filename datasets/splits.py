"""What a reader returns and what a training step receives: ``Split``, ``Splits``, ``Batch``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # decoding workers import this package without waiting for torch
    import torch


class DatasetError(ValueError):
    """Input data that cannot be used; the message says what came, what is allowed and what to do."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images of one split in sorted order; image i always has index i (its memory row).

    Args:
        paths: one file an image.
        pids: [N] identities; in a training split labels 0..C-1, in query and gallery as in the file names.
        cams: [N] cameras, numbered as in the file names.
        name: "market/train" and the like, for messages.
        junk: files left out because their identity is -1.
        relabelled: pids are labels 0..C-1.
    """

    paths: tuple[str, ...]
    pids: NDArray[np.int64]
    cams: NDArray[np.int64]
    name: str = ""
    junk: int = 0
    relabelled: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_identities(self) -> int:
        return len(np.unique(self.pids))

    @property
    def num_cameras(self) -> int:
        return len(np.unique(self.cams))

    def take(self, rows: NDArray[np.int64]) -> Split:
        """The same split reduced to some rows; labels are made contiguous again."""
        paths = tuple(self.paths[i] for i in rows)
        pids = _contiguous(self.pids[rows]) if self.relabelled else self.pids[rows]
        return Split(paths, pids, self.cams[rows], self.name, self.junk, self.relabelled)

    def unlabelled(self) -> Split:
        """The same images with every identity -1, for a domain whose identities must not be read."""
        return Split(self.paths, np.full_like(self.pids, -1), self.cams, self.name, self.junk)


@dataclass(frozen=True)
class Splits:
    """The three splits of a dataset, where it was found, and what is odd about it (``warnings``)."""

    name: str
    root: str
    train: Split
    query: Split
    gallery: Split
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch: ``images`` uint8 [B, 3, H, W]; ``pids``, ``cams``, ``index`` int64 [B].

    ``index`` is the row in the split, whatever picture of it was shown (a camera-style copy keeps its row).
    """

    images: torch.Tensor
    pids: torch.Tensor
    cams: torch.Tensor
    index: torch.Tensor

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        parts = (self.images, self.pids, self.cams, self.index)
        return Batch(*(part.to(device, non_blocking=non_blocking) for part in parts))

    def pin_memory(self, device: object = None) -> Batch:
        """Page-locked copy (``device`` is what older DataLoaders pass; unused parts stay as they are)."""
        parts = (self.images, self.pids, self.cams, self.index)
        return Batch(*(part if part.is_pinned() else part.pin_memory() for part in parts))


def _contiguous(pids: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(pids, return_inverse=True)[1].astype(np.int64).reshape(-1)


def make_split(rows: list[tuple[str, int, int]], name: str, *, relabel: bool) -> Split:
    """Sort (path, pid, camera) rows by path, drop junk (pid -1) and, for training, relabel to 0..C-1."""
    kept = sorted(row for row in rows if row[1] != -1)
    pids = np.array([pid for _, pid, _ in kept], dtype=np.int64)
    pids = _contiguous(pids) if relabel else pids
    cams = np.array([cam for _, _, cam in kept], dtype=np.int64)
    return Split(tuple(path for path, _, _ in kept), pids, cams, name, len(rows) - len(kept), relabel)
