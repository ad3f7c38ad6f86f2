"""MSMT17, versions 1 and 2: image folders with list files (the Market-style copy is read by ``market``)."""

from __future__ import annotations

import re
from pathlib import Path

from crossreid.datasets.splits import DatasetError, Split, Splits, make_split

CAMERA = re.compile(r"-?\d+_[^_]+_(\d+)_")  # 0000_000_01_0303morning_0008_0.jpg: the third field


def _read_list(root: Path, list_name: str, images: str) -> list[tuple[str, int, int]]:
    rows = []
    path = root / list_name
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}); MSMT17 comes with this list"
        ) from error
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields or Path(fields[0]).name.startswith("._") or "__MACOSX" in fields[0]:
            continue
        camera = CAMERA.match(Path(fields[0]).name)
        if len(fields) != 2 or not fields[1].lstrip("-").isdigit() or camera is None:
            raise DatasetError(
                f"{path}, line {number}: {line!r} is not '<folder>/<pid>_<n>_<camera>_<...>.jpg <identity>'"
            )
        rows.append((str(root / images / fields[0]), int(fields[1]), int(camera.group(1))))
    return rows


def _check_files(split: Split) -> None:
    missing = [path for path in split.paths if not Path(path).is_file()]
    if missing:
        raise DatasetError(
            f"{split.name}: {len(missing):,} of {len(split):,} listed images are missing, first {missing[0]}; "
            "unpack the archive again"
        )


def read_msmt(root: Path, name: str, images: tuple[str, str], *, train_val: bool) -> Splits:
    """MSMT17 from its lists; the training split is list_train, with ``train_val`` also list_val."""
    train = _read_list(root, "list_train.txt", images[0])
    if train_val:
        train += _read_list(root, "list_val.txt", images[0])
    splits = Splits(
        name,
        str(root),
        make_split(train, f"{name}/train", relabel=True),
        make_split(_read_list(root, "list_query.txt", images[1]), f"{name}/query", relabel=False),
        make_split(_read_list(root, "list_gallery.txt", images[1]), f"{name}/gallery", relabel=False),
    )
    for split in (splits.train, splits.query, splits.gallery):
        _check_files(split)
    return splits
