"""MSMT17, versions 1 and 2: image folders with list files (the Market-style copy is read by ``market``)."""

from __future__ import annotations

import re
from pathlib import Path

from crossreid.datasets.listing import inside, is_file, read_text
from crossreid.datasets.splits import PARTS, DatasetError, Row, Split, Splits, make_splits

CAMERA = re.compile(r"-?\d+_[^_]+_(\d+)_")  # 0000_000_01_0303morning_0008_0.jpg: the third field


def _read_list(root: Path, list_name: str, images: str) -> list[Row]:
    path, folder = inside(root, list_name), inside(root, images)
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        relative = fields[0].replace("\\", "/")
        if relative.rpartition("/")[2].startswith("._") or "__MACOSX" in relative:
            continue
        camera = CAMERA.match(relative.rpartition("/")[2])
        if len(fields) != 2 or not fields[1].lstrip("-").isdecimal() or camera is None:
            raise DatasetError(
                f"{path}, line {number}: {line[:200]!r} is not '<folder>/<pid>_<n>_<camera>_<...>.jpg <identity>'"
            )
        rows.append((str(folder / relative), int(fields[1]), int(camera.group(1))))
    return rows


def _check_files(split: Split) -> None:
    missing = [path for path in split.paths if not is_file(Path(path))]
    if missing:
        raise DatasetError(
            f"{split.name}: {len(missing):,} of {len(split):,} listed images are missing, first {missing[0][:300]}; "
            "unpack the archive again"
        )


def read_msmt(
    root: Path,
    name: str,
    images: tuple[str, str],
    *,
    train_val: bool | None,
    train_all: bool = False,
    missing: str = "error",
) -> Splits:
    """MSMT17 from its lists.

    Args:
        root: holds the lists and the image folders.
        name: of the dataset.
        images: folders of the training and the test images.
        train_val: the training split is list_train + list_val, else list_train alone.
        train_all: all four lists are the training split; query and gallery stay what they are.
        missing: "error" refuses listed images that are not there, "keep" leaves them to the decoder.

    Raises:
        DatasetError: a list that is missing or does not parse, or images that are missing.
    """
    if (train_val or train_all) and not inside(root, "list_val.txt").is_file():
        raise DatasetError(
            f"{name}: {root} lacks list_val.txt, which is part of the training images; add it, or set "
            "DATASETS.TRAIN_VAL False to train with list_train.txt alone"
        )
    rows = {
        "train": _read_list(root, "list_train.txt", images[0]),
        "query": _read_list(root, "list_query.txt", images[1]),
        "gallery": _read_list(root, "list_gallery.txt", images[1]),
    }
    if train_val or train_all:
        rows["train"] += _read_list(root, "list_val.txt", images[0])
    if train_all:  # identities of the test part are other people and count from 0, too
        first = 1 + max((pid for _, pid, _ in rows["train"]), default=-1)
        tested = rows["query"] + rows["gallery"]
        rows["train"] += [(path, pid + first if pid >= 0 else pid, cam) for path, pid, cam in tested]
    splits = make_splits(name, str(root), rows)
    for part in PARTS if missing == "error" else ():
        _check_files(getattr(splits, part))
    return splits
