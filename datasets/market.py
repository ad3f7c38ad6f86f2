"""Market-1501-style folders: Market, Duke, CUHK03-NP, MSMT17's Market-style copy, synthetic, one's own."""

from __future__ import annotations

import os
import re
from pathlib import Path

from crossreid.datasets.splits import DatasetError, Split, Splits, make_split

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
NAME = re.compile(
    r"(-?\d+)_c(\d+)"
)  # 0002_c1s1_000451_03.jpg, 0001_c2_f0046182.jpg, 0000_c14_0030.jpg, -1_...
FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
OWN_FOLDERS = (FOLDERS, ("train", "query", "gallery"), ("train", "query", "test"))


def list_images(folder: Path) -> list[str]:
    """Sorted names of the image files in a folder, without hidden and resource-fork (``._*``) files."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not _is_folder(entry)]
    return sorted(name for name in names if name[0] != "." and name.lower().endswith(EXTENSIONS))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: named when it is read
        return False


def parse_name(name: str, path: str | Path) -> tuple[int, int]:
    """Identity and camera of a Market-style file name.

    Raises:
        DatasetError: the name does not begin with ``<identity>_c<camera>``.
    """
    match = NAME.match(name)
    if match is None:
        raise DatasetError(
            f"{path}: the file name does not begin with <identity>_c<camera>, as in 0002_c1s1_000451_03.jpg; "
            "rename or remove the file"
        )
    return int(match.group(1)), int(match.group(2))


def read_folder(folder: Path, name: str, *, relabel: bool) -> Split:
    """One split from one folder of Market-style files."""
    rows = [(str(folder / file), *parse_name(file, folder / file)) for file in list_images(folder)]
    return make_split(rows, name, relabel=relabel)


def read_market(root: Path, name: str, folders: tuple[str, str, str] = FOLDERS) -> Splits:
    """Three folders of Market-style files: train, query, gallery."""
    train, query, gallery = (root / folder for folder in folders)
    return Splits(
        name,
        str(root),
        read_folder(train, f"{name}/train", relabel=True),
        read_folder(query, f"{name}/query", relabel=False),
        read_folder(gallery, f"{name}/gallery", relabel=False),
    )


def read_own(root: Path, name: str) -> Splits:
    """One's own three folders, under Market's names or plainly train, query, gallery (or test)."""
    for folders in OWN_FOLDERS:
        if all((root / folder).is_dir() for folder in folders):
            return read_market(root, name, folders)
    allowed = "; ".join(" ".join(folders) for folders in OWN_FOLDERS)
    raise DatasetError(f"folder: {root} must hold three folders of one of these sets: {allowed}")
