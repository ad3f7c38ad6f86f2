"""One's own cameras without identities: a folder a camera, any file names."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from crossreid.datasets.listing import list_images, loose_images, shown, subfolders
from crossreid.datasets.splits import UNKNOWN, DatasetError, Row, Splits, make_splits

LAST_NUMBER = re.compile(r"(\d{1,9})\D*$")
NEEDED = "put the images of each camera into a folder of its own, such as cam1/ and cam2/"


def number_cameras(names: list[str]) -> dict[str, int]:
    """The last number in each name where all have one and they differ, else 1, 2, 3 … in their order."""
    found = [LAST_NUMBER.search(name) for name in names]
    numbers = [int(match.group(1)) for match in found if match]
    if len(numbers) < len(names) or len(set(numbers)) < len(names):
        numbers = list(range(1, len(names) + 1))
    return dict(zip(names, numbers))


def read_cameras(root: Path, name: str) -> Splits:
    """Unlabelled training images from one folder a camera; tracks may be folders inside.

    Args:
        root: holds the cameras' folders.
        name: of the dataset.

    Returns:
        Splits with training images of identity -1, no query and no gallery; ``cameras`` names the folders.

    Raises:
        DatasetError: no folder, images outside the folders, or a camera without images.
    """
    if not root.is_dir():
        raise DatasetError(f"cameras: {root} is not a folder; {NEEDED}")
    folders = subfolders(root)
    if len(folders) == 1 and folders[0].name == root.name:  # an archive unpacked into a folder of its own
        root, folders = folders[0], subfolders(folders[0])
    if loose := loose_images(root):
        raise DatasetError(
            f"cameras: {root} holds {len(loose):,} images outside of its {len(folders)} folders, first "
            f"{shown(loose[0])}; {NEEDED}"
        )
    if not folders:
        raise DatasetError(f"cameras: {root} holds no folders; {NEEDED}")
    rows: list[Row] = []
    notes: list[str] = []
    numbers = number_cameras([folder.name for folder in folders])
    for folder in folders:
        listing = list_images(folder)
        if not listing.images:
            others = f" ({len(listing.others):,} other files)" if listing.others else ""
            raise DatasetError(
                f"cameras: {shown(str(folder))} holds no images{others}; fill the folder or remove it"
            )
        rows += [(str(folder / file), UNKNOWN, numbers[folder.name]) for file in listing.images]
        notes += dataclasses.replace(listing, images=()).notes(f"{name}/{folder.name}")
    if len(folders) == 1:
        notes.append(
            f"{name}: {folders[0].name} is the only camera below {root}, so that nothing can be learned across cameras"
        )
    splits = make_splits(name, str(root), {"train": rows}, unlabelled=True, notes={"train": tuple(notes)})
    return dataclasses.replace(splits, cameras={number: camera for camera, number in numbers.items()})
