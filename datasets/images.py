"""The one torch ``Dataset``: uint8 batches, gathered whole from the decoded store or decoded on the way."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from crossreid.datasets import buffers
from crossreid.datasets.cache import CACHES, default_cache_dir, find_store
from crossreid.datasets.camstyle_copies import Styled, choices
from crossreid.datasets.decode import FILTERS, Box, decode, reason
from crossreid.datasets.pool import available_cores
from crossreid.datasets.splits import Batch, DatasetError, Split
from crossreid.datasets.store import ImageFiles, Store, corrupt_rows

ON_CORRUPT = ("error", "skip")

logger = logging.getLogger(__name__)


class ImageDataset(Dataset[Batch]):
    """Images of a split at the training size.

    Args:
        split: what to show; ``.split`` afterwards is the same without skipped images.
        size: height and width in pixels.
        interpolation: of the resizing to that size: bilinear or bicubic.
        cache: "disk" keeps decoded images in a file below ``cache_dir``, "ram" in shared memory, "off" decodes
            each image each time, "auto" takes the first of disk, ram, off for which there is room.
        cache_dir: default ``default_cache_dir()``.
        on_corrupt: "error" raises and names the file, "skip" leaves it out and lists it in ``.skipped``.
        workers: decoding processes while a store is built; default one a core.
        progress: draw a progress bar while a store is built (on a terminal).
        styled: camera-style copies of the images; they become rows after the split's own, see ``.choices``.

    Raises:
        DatasetError: a corrupt image (its path is named), a missing file, a wrong argument.
    """

    def __init__(
        self,
        split: Split,
        size: tuple[int, int] = (256, 128),
        *,
        interpolation: str = "bilinear",
        cache: str = "auto",
        cache_dir: str | Path | None = None,
        on_corrupt: str = "error",
        workers: int | None = None,
        progress: bool = True,
        styled: Styled | None = None,
    ) -> None:
        _check("DATASETS.CACHE", cache, CACHES)
        _check("DATASETS.ON_CORRUPT", on_corrupt, ON_CORRUPT)
        _check("INPUT.INTERPOLATION", interpolation, tuple(FILTERS))
        if min(size) < 1:
            raise DatasetError(f"image size {size}: height and width must be at least 1 pixel")
        styled = styled or Styled()
        self.size = (int(size[0]), int(size[1]))
        paths, form = (*split.paths, *styled.paths), (*self.size, interpolation)
        self._files = ImageFiles(paths, form, workers or available_cores(), progress)
        self._skip = on_corrupt == "skip"
        self._name, self._cache = split.name or "images", cache
        self._folder = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
        self._store, self.mode = self._find()
        corrupt = self._store.corrupt if self._store else {}
        if self._store is None and self._skip:  # they must be known before the first epoch
            corrupt = corrupt_rows(self._files.decode())
        self._corrupt = sorted(corrupt)
        self.skipped = tuple((paths[row], corrupt[row]) for row in self._corrupt)
        if self.skipped:
            _report(self.skipped, split.name, on_corrupt)
        self._number(split, styled, np.array(self._corrupt, np.int64))

    def _find(self) -> tuple[Store | None, str]:
        return find_store(self._files, self._cache, self._folder, self._name, skip=self._skip)

    def _number(self, split: Split, styled: Styled, corrupt: NDArray[np.int64]) -> None:
        """Row of this dataset -> row of the store, and -> index in the split, both without corrupt images."""
        slots = np.concatenate([np.arange(len(split)), styled.slots])
        good = np.ones(len(slots), bool)
        good[corrupt] = False
        own = good[: len(split)]
        good &= own[slots]  # a copy goes with its image
        if not own.any():
            raise DatasetError(
                f"{split.name or 'images'}: none of {len(split):,} images decodes, first {split.paths[:1]}"
            )
        self.split = split if own.all() else split.take(np.flatnonzero(own))
        self._rows = np.flatnonzero(good)
        self._index = (np.cumsum(own) - 1)[slots[good]]
        self.choices = choices(self._index, len(self.split))

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: int) -> Batch:
        return self.__getitems__([row])

    def __getitems__(self, rows: Sequence[int] | NDArray[np.int64]) -> Batch:
        return self.gather(rows)

    def batch(self, rows: Sequence[int] | NDArray[np.int64], iteration: int, *, pin: bool = False) -> Batch:
        """What ``Streams`` shows in an iteration: the images as they are."""
        return self.gather(rows, pin=pin)

    def gather(
        self, rows: Sequence[int] | NDArray[np.int64], *, pin: bool = False, box: Box | None = None
    ) -> Batch:
        """The images of some rows as one batch.

        Args:
            rows: B of them.
            pin: in page-locked memory.
            box: decode the files anew and cut this from each before it is resized.
        """
        wanted = np.asarray(rows, np.int64).reshape(-1)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self._rows)):
            raise IndexError(f"rows {wanted.min()}..{wanted.max()} of a dataset of {len(self._rows)} rows")
        shape = (len(wanted), 3, *self.size)
        if pin:
            images = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        else:
            images = buffers.empty(shape, torch.uint8)
        self._fill(images.numpy().reshape(len(wanted), -1), self._rows[wanted], box)
        index = self._index[wanted]
        parts = (self.split.pids[index], self.split.cams[index], index)
        batch = Batch(images, *(torch.from_numpy(part) for part in parts))
        return batch.pin_memory() if pin else batch

    def _fill(self, out: NDArray[np.uint8], rows: NDArray[np.int64], box: Box | None) -> None:
        while self._store is not None and box is None:
            if self._store.read(rows, out):
                return
            self._renew(self._store)
        for target, row in zip(out, rows):
            try:
                target[:] = decode(self._files.paths[row], *self._files.size, box).reshape(-1)
            except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
                raise DatasetError(
                    f"{self._files.paths[row]}: does not decode ({reason(error)}); restore or delete the file, "
                    "or set DATASETS.ON_CORRUPT skip"
                ) from error

    def _renew(self, store: Store) -> None:
        """Another store in place of one that was cut off or written to while it was in use."""
        logger.warning("%s: image store %s was changed while in use", self._name, store.path)
        self._store, self.mode = self._find()
        if self._store is not None and not set(self._store.corrupt) <= set(self._corrupt):
            path = self._files.paths[min(set(self._store.corrupt) - set(self._corrupt))]
            raise DatasetError(
                f"{path}: was damaged or removed while in use, as was the image store {store.path}"
            )


def _check(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DatasetError(f"{key} {value!r} is not one of {', '.join(allowed)}")


def _report(skipped: tuple[tuple[str, str], ...], name: str, on_corrupt: str) -> None:
    path, why = skipped[0]
    more = f" and {len(skipped) - 1:,} more" if len(skipped) > 1 else ""
    if on_corrupt == "error":
        raise DatasetError(
            f"{path}{more}: does not decode ({why}); restore or delete the file, "
            "or set DATASETS.ON_CORRUPT skip"
        )
    logger.warning("%s: skipped %d images that do not decode: %s (%s)%s", name, len(skipped), path, why, more)
