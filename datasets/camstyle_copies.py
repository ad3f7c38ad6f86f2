"""CamStyle: generated copies of training images in the style of the other cameras (Zhong et al. 2018)."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossreid.datasets.listing import inside, list_images
from crossreid.datasets.splits import DatasetError, Split, Splits

FOLDERS = {
    "cyclegan": "bounding_box_train_camstyle_cyclegan",
    "stargan": "bounding_box_train_camstyle_stargan",
    "plain": "bounding_box_train_camstyle",
}
NAME = re.compile(
    r"(?P<stem>.+)_fake_(?:(?P<source>\d+)to)?(?P<target>\d+)\."
)  # <stem>_fake_1to2.jpg, <stem>_fake_2.jpg

logger = logging.getLogger(__name__)


def _none() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Styled:
    """Copies: their files, the row of the image each was made from, and the camera each imitates."""

    paths: tuple[str, ...] = ()
    slots: NDArray[np.int64] = field(default_factory=_none)
    cams: NDArray[np.int64] = field(default_factory=_none)

    def __len__(self) -> int:
        return len(self.paths)


def _parse(path: Path, slots: dict[str, int], train: Split) -> tuple[str, int, int] | None:
    """(file, slot, camera) of a copy, or None where its image is not in the training split."""
    match = NAME.match(path.name)
    if match is None:
        raise DatasetError(
            f"{path}: the file name is neither <image>_fake_<camera>to<camera> nor <image>_fake_<camera>; "
            "rename or remove it"
        )
    slot = slots.get(match["stem"])
    if slot is None:
        return None
    if match["source"] and int(match["source"]) != train.cams[slot]:
        raise DatasetError(
            f"{path}: made from camera {match['source']}, but its image is of camera {train.cams[slot]}"
        )
    return str(path), slot, int(match["target"])


def attach(splits: Splits, kind: str) -> Styled:
    """Find the copies of a dataset's training images below its root.

    Args:
        splits: Market, Duke, MSMT17 or any dataset with such a folder in its root.
        kind: "cyclegan", "stargan" or "plain": which of the three folders.

    Raises:
        DatasetError: no such folder, a name that does not parse, no copy of a training image.
    """
    if kind not in FOLDERS:
        raise DatasetError(f"CAMSTYLE {kind!r} is not one of {', '.join(FOLDERS)} (as files)")
    folder = inside(Path(splits.root), FOLDERS[kind])
    if not folder.is_dir():
        there = [name for name, place in FOLDERS.items() if (folder.parent / place).is_dir()]
        found = "; ".join(
            f"there is {folder.parent / FOLDERS[name]}: set INPUT.CAMSTYLE {name}" for name in there
        )
        raise DatasetError(
            f"{splits.name}: no folder {folder}; "
            + (found or "set INPUT.CAMSTYLE statistics, which needs no generated images")
        )
    train = splits.train
    slots = {Path(path).name.partition(".")[0]: row for row, path in enumerate(train.paths)}
    parsed = [_parse(folder / name, slots, train) for name in list_images(folder).images]
    copies = sorted((copy for copy in parsed if copy), key=lambda copy: (copy[1], copy[2]))
    if not copies:
        raise DatasetError(f"{folder}: holds no copy of a training image of {splits.name}")
    expected = len(train) * (train.num_cameras - 1)
    if len(copies) != expected or len(parsed) != len(copies):
        logger.warning(
            "%s: %s copies of training images, %s of others; expected images x (cameras - 1) = %s",
            folder,
            f"{len(copies):,}",
            f"{len(parsed) - len(copies):,}",
            f"{expected:,}",
        )
    paths, rows, cams = zip(*copies)
    return Styled(tuple(paths), np.array(rows, np.int64), np.array(cams, np.int64))


def choices(slots: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Table [N, 1 + most copies of an image] of the rows that show each image, filled up with its own row.

    Args:
        slots: for each row the image it shows; rows 0..N-1 are the images themselves, copies follow.
        count: N.
    """
    order = np.argsort(slots, kind="stable")
    first = np.searchsorted(slots[order], np.arange(count))
    place = np.arange(len(slots)) - first[slots[order]]
    table = np.repeat(np.arange(count)[:, None], int(place.max(initial=0)) + 1, axis=1)
    table[slots[order], place] = order
    return table
