"""Market-1501-style folders: Market, Duke, CUHK03-NP, MSMT17's Market-style copy, synthetic, one's own."""

from __future__ import annotations

import re
from pathlib import Path

from crossreid.datasets.listing import inside, list_images, shown, subfolders
from crossreid.datasets.splits import PARTS, DatasetError, Row, Splits, make_splits

# 0002_c1s1_000451_03.jpg, 0001_c2_f0046182.jpg, 0000_c14_0030.jpg, 0001C1T0001F001.jpg, -1_...
NAME = re.compile(r"(-?\d+)_?c(?:am)?(\d+)", re.IGNORECASE)
# 0001/c2_000451.jpg, 0001/cam2/000451.jpg: the first folder is the identity
NESTED = re.compile(r"(-?\d+)/(?:.*[/_])?c(?:am)?_?(\d+)", re.IGNORECASE)
FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
OWN_FOLDERS = ((FOLDERS[0], "train"), ("query",), (FOLDERS[2], "gallery", "test"))


def parse_name(relative: str, path: str | Path) -> tuple[int, int]:
    """Identity and camera of a Market-style file name, or of a file in a folder named by its identity.

    Args:
        relative: the path inside the split's folder.
        path: for the message.

    Raises:
        DatasetError: neither form fits.
    """
    match = NAME.match(relative.rpartition("/")[2]) or NESTED.match(relative)
    if match is None:
        raise DatasetError(
            f"{path}: the file name does not begin with <identity>_c<camera>, as in 0002_c1s1_000451_03.jpg; "
            "rename or remove the file, or list the images in a CSV file"
        )
    return int(match.group(1)), int(match.group(2))


def read_market(
    root: Path, name: str, folders: tuple[str, ...] = FOLDERS, *, unlabelled: bool = False
) -> Splits:
    """Folders of Market-style files: train, query, gallery ("" for a part that is not there).

    Args:
        root: holds the folders; their images may lie in sub-folders.
        name: of the dataset.
        folders: their names, in any case.
        unlabelled: keep training images of identity -1, which are junk otherwise.

    Raises:
        DatasetError: a name that does not parse, or a folder that cannot be listed.
    """
    rows: dict[str, list[Row]] = {}
    notes: dict[str, tuple[str, ...]] = {}
    for part, inner in zip(PARTS, folders):
        if not inner:
            continue
        folder = inside(root, inner)
        listing = list_images(folder)
        rows[part] = [(str(folder / file), *parse_name(file, folder / file)) for file in listing.images]
        notes[part] = listing.notes(f"{name}/{part}")
        if unlabelled and not rows[part]:
            raise DatasetError(
                f"{name}/{part}: no images below {folder}; fill the folder, or remove it if there is no such part"
                + "".join(f" ({line})" for line in notes[part])
            )
    return make_splits(name, str(root), rows, unlabelled=unlabelled, notes=notes)


def read_own(root: Path, name: str) -> Splits:
    """One's own folders, under Market's names or plainly train, query, gallery (or test).

    A training folder alone is an unlabelled (or not yet evaluated) domain, query and gallery alone can be evaluated.

    Raises:
        DatasetError: none of the folders is there, or query without gallery.
    """
    folders = _own_folders(root)
    below = subfolders(root) if root.is_dir() else []
    if not any(folders) and len(below) == 1:  # an archive unpacked into a folder of its own
        root, folders = below[0], _own_folders(below[0])
    train, query, gallery = folders
    if not any(folders) or bool(query) != bool(gallery):
        found = shown(", ".join(path.name for path in below[:8])) or "no folders"
        raise DatasetError(
            f"folder: {root} holds {found}; needed: train (or bounding_box_train), or query with gallery (or test, "
            "bounding_box_test), or all three; for a folder a camera and any file names use cameras:<folder>"
        )
    return read_market(root, name, (train, query, gallery), unlabelled=True)


def _own_folders(root: Path) -> tuple[str, ...]:
    """The first name of each part that is there, "" where none is."""
    return tuple(next((n for n in names if inside(root, n).is_dir()), "") for names in OWN_FOLDERS)
