"""What a reader returns and what a training step receives: ``Split``, ``Splits``, ``Batch``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # decoding workers import this package without waiting for torch
    import torch


class DatasetError(ValueError):
    """Input data that cannot be used; the message says what came, what is allowed and what to do."""


Row = tuple[str, int, int]  # path, identity, camera
PARTS = ("train", "query", "gallery")
UNKNOWN = -1  # an identity or camera that nobody knows
LARGEST = 2**62  # of the numbers kept as they are


@dataclass(frozen=True, eq=False)
class Split:
    """Images of one split in sorted order; image i always has index i (its memory row).

    Args:
        paths: one file an image.
        pids: [N] identities; in a training split labels 0..C-1, in query and gallery as in the file names;
            -1 where the identity is unknown.
        cams: [N] cameras, numbered as in the file names; -1 where the camera is unknown.
        name: "market/train" and the like, for messages.
        junk: images left out because their identity is -1.
        relabelled: pids are labels 0..C-1.
        notes: what is odd about the files, a line each.
    """

    paths: tuple[str, ...]
    pids: NDArray[np.int64]
    cams: NDArray[np.int64]
    name: str = ""
    junk: int = 0
    relabelled: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def dataset(self) -> str:
        """The name of the dataset that this is a split of."""
        return self.name.rpartition("/")[0]

    @property
    def num_identities(self) -> int:
        return len(np.unique(self.pids[self.pids != UNKNOWN]))

    @property
    def num_cameras(self) -> int:
        return len(np.unique(self.cams))

    def take(self, rows: NDArray[np.int64]) -> Split:
        """The same split reduced to some rows; labels are made contiguous again."""
        paths = tuple(self.paths[i] for i in rows)
        pids = _contiguous(self.pids[rows]) if self.relabelled else self.pids[rows]
        return dataclasses.replace(self, paths=paths, pids=pids, cams=self.cams[rows])

    def unlabelled(self) -> Split:
        """The same images with every identity -1, for a domain whose identities must not be read."""
        return dataclasses.replace(self, pids=np.full_like(self.pids, UNKNOWN), relabelled=False)

    def labelled(self) -> Split:
        """The images whose identity is known, for a domain that is learned from.

        Raises:
            DatasetError: there are none.
        """
        known = np.flatnonzero(self.pids != UNKNOWN)
        if not len(known):
            raise DatasetError(
                f"{self.name}: none of {len(self):,} images has an identity; as a source (DATASETS.SOURCES) choose a "
                "labelled dataset, and name this one as DATASETS.TARGET"
            )
        return self if len(known) == len(self) else self.take(known)


def no_images() -> Split:
    """An empty split."""
    return Split((), np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Splits:
    """The three splits of a dataset, where it was found, and what is odd about it (``warnings``).

    A dataset may lack query and gallery (unlabelled cameras) or the training images; such splits are empty.
    ``cameras`` names the cameras where the dataset does.
    """

    name: str
    root: str
    train: Split = field(default_factory=no_images)
    query: Split = field(default_factory=no_images)
    gallery: Split = field(default_factory=no_images)
    warnings: tuple[str, ...] = ()
    cameras: Mapping[int, str] = field(default_factory=dict)

    @property
    def scored(self) -> bool:
        """Whether there are query and gallery images with identities."""
        return len(self.query) > 0 and len(self.gallery) > 0

    def need_training(self) -> Split:
        """The training images.

        Raises:
            DatasetError: there are none.
        """
        if not len(self.train):
            raise DatasetError(
                f"{self.name}: no training images below {self.root}, it holds query and gallery alone; add a training "
                "part, or use it as DATASETS.TARGET with DATASETS.ADAPT False, which only evaluates on it"
            )
        return self.train

    def need_scores(self) -> tuple[Split, Split]:
        """Query and gallery.

        Raises:
            DatasetError: there are none with identities.
        """
        if not self.scored:
            junk = self.query.junk + self.gallery.junk
            why = f" ({junk:,} images have the identity -1, unknown)" if junk else ""
            raise DatasetError(
                f"{self.name}: no query and gallery with identities below {self.root}{why}, so that nothing can be "
                "scored; add them, or evaluate on a labelled dataset"
            )
        return self.query, self.gallery


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
    """Labels 0..C-1 in ascending order of the identities; -1 stays."""
    known, labels = pids != UNKNOWN, np.full_like(pids, UNKNOWN)
    labels[known] = np.unique(pids[known], return_inverse=True)[1].reshape(-1)
    return labels


def make_split(
    rows: list[Row], name: str, *, relabel: bool, unknown: str = "drop", notes: tuple[str, ...] = ()
) -> Split:
    """Sort rows by path, treat unknown identities (-1) and, for training, relabel the others to 0..C-1.

    Args:
        rows: (path, pid, camera); any pid below 0 counts as -1.
        name: for messages.
        relabel: make the identities labels.
        unknown: "drop" leaves images of identity -1 out as junk, "keep" keeps them.
        notes: what is odd about the files.
    """
    kept = sorted(row for row in rows if row[1] >= 0 or unknown == "keep")
    pids = np.array([max(pid, UNKNOWN) for _, pid, _ in kept], dtype=np.int64)
    pids = _contiguous(pids) if relabel else pids
    cams = np.array([cam for _, _, cam in kept], dtype=np.int64)
    return Split(tuple(path for path, _, _ in kept), pids, cams, name, len(rows) - len(kept), relabel, notes)


def make_splits(
    name: str,
    root: str,
    rows: Mapping[str, Sequence[Row]],
    *,
    unlabelled: bool = False,
    notes: Mapping[str, tuple[str, ...]] | None = None,
) -> Splits:
    """The three splits from their rows; numbers too long for 64 bits become 0, 1, 2 … in ascending order.

    Args:
        name: of the dataset.
        root: its folder.
        rows: of "train", "query" and "gallery"; parts may be absent.
        unlabelled: keep training images of identity -1 (in query and gallery they are junk in any case).
        notes: what is odd about the files of each part.
    """
    cams = _short(cam for part in rows.values() for _, _, cam in part)
    tested = _short(pid for part in ("query", "gallery") for _, pid, _ in rows.get(part, ()))
    trained = _short(pid for _, pid, _ in rows.get("train", ()))
    splits = {}
    for part in PARTS:
        pids = trained if part == "train" else tested
        short = [(path, pids.get(pid, pid), cams.get(cam, cam)) for path, pid, cam in rows.get(part, ())]
        splits[part] = make_split(
            short,
            f"{name}/{part}",
            relabel=part == "train",
            unknown="keep" if unlabelled and part == "train" else "drop",
            notes=(notes or {}).get(part, ()),
        )
    return Splits(name, root, splits["train"], splits["query"], splits["gallery"])


def _short(numbers: Iterable[int]) -> dict[int, int]:
    """A smaller number for each number >= 0, if one of them is too long; else none."""
    distinct = set(numbers)
    if not distinct or max(distinct) <= LARGEST:
        return {}
    return {number: i for i, number in enumerate(sorted(n for n in distinct if n >= 0))}
