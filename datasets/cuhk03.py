"""CUHK03, old protocol, in the open-reid layout: ``images/ meta.json splits.json``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from crossreid.datasets.market import list_images
from crossreid.datasets.splits import DatasetError, Splits, make_split

NAME = re.compile(r"(\d+)_(\d+)_(\d+)")  # identity_camera_number, cameras from 0


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path}: cannot be read as JSON ({error}); CUHK03 in this layout comes with it"
        ) from error


def _protocol(root: Path, split_id: int) -> dict[str, set[int]]:
    """Identities of train, query and gallery in one of the file's splits."""
    path = root / "splits.json"
    content = _read_json(path)
    content = content if isinstance(content, list) else [content]
    if not 0 <= split_id < len(content):
        raise DatasetError(f"{path}: split {split_id} asked for, the file holds 0..{len(content) - 1}")
    split = content[split_id]
    try:
        train = split["trainval"] if "trainval" in split else split["train"] + split["val"]
        return {"train": set(train), "query": set(split["query"]), "gallery": set(split["gallery"])}
    except (TypeError, KeyError) as error:
        raise DatasetError(
            f"{path}: split {split_id} lacks {error}; trainval, query and gallery are needed"
        ) from error


def _check_meta(root: Path, names: list[str]) -> None:
    """Every image that meta.json lists must be there."""
    meta = _read_json(root / "meta.json")
    identities = meta.get("identities", []) if isinstance(meta, dict) else []
    listed = {str(name) for cameras in identities for camera in cameras for name in camera}
    missing = sorted(listed.difference(names))
    if missing:
        raise DatasetError(
            f"{root}: {len(missing):,} images of meta.json are missing, the first: images/{missing[0]}; "
            "unpack the archive again"
        )


def read_cuhk03(root: Path, name: str, *, split_id: int = 0) -> Splits:
    """CUHK03 with 1,367 training identities; cameras are numbered from 0 as in the files."""
    names = list_images(root / "images")
    _check_meta(root, names)
    parsed = []
    for file in names:
        match = NAME.match(file)
        if match is None:
            raise DatasetError(
                f"{root / 'images' / file}: the name is not <identity>_<camera>_<number>; rename or remove it"
            )
        parsed.append((str(root / "images" / file), int(match.group(1)), int(match.group(2))))
    protocol = _protocol(root, split_id)
    train, query, gallery = (
        make_split(
            [row for row in parsed if row[1] in protocol[part]], f"{name}/{part}", relabel=part == "train"
        )
        for part in ("train", "query", "gallery")
    )
    return Splits(name, str(root), train, query, gallery)
