"""CUHK03: the old protocol in the open-reid layout, ``images/ meta.json splits.json``; both as torchreid keeps them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from crossreid.datasets.listing import inside, is_file, list_images, read_text
from crossreid.datasets.splits import PARTS, DatasetError, Row, Splits, make_splits

NAME = re.compile(r"(\d+)_(\d+)_(\d+)")  # identity_camera_number, cameras from 0


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path}: cannot be read as JSON ({error}); CUHK03 in this layout comes with it"
        ) from error


def _chosen(path: Path, split_id: int) -> Any:
    """One of the splits of a JSON file."""
    content = _read_json(path)
    content = content if isinstance(content, list) else [content]
    if not 0 <= split_id < len(content):
        raise DatasetError(f"{path}: split {split_id} asked for, the file holds 0..{len(content) - 1}")
    return content[split_id]


def _protocol(root: Path, split_id: int) -> dict[str, set[int]]:
    """Identities of train, query and gallery in one of the file's splits."""
    path = inside(root, "splits.json")
    split = _chosen(path, split_id)
    try:
        train = split["trainval"] if "trainval" in split else split["train"] + split["val"]
        return {"train": set(train), "query": set(split["query"]), "gallery": set(split["gallery"])}
    except (TypeError, KeyError) as error:
        raise DatasetError(
            f"{path}: split {split_id} lacks {error}; trainval, query and gallery are needed"
        ) from error


def _check_meta(root: Path, names: tuple[str, ...]) -> None:
    """Every image that meta.json lists must be there."""
    meta = _read_json(inside(root, "meta.json"))
    identities = meta.get("identities", []) if isinstance(meta, dict) else []
    listed = {str(name) for cameras in identities for camera in cameras for name in camera}
    missing = sorted(listed.difference(names))
    if missing:
        raise DatasetError(
            f"{root}: {len(missing):,} images of meta.json are missing, the first: images/{missing[0][:200]}; "
            "unpack the archive again"
        )


def read_cuhk03(root: Path, name: str, *, split_id: int = 0) -> Splits:
    """CUHK03 with 1,367 training identities; cameras are numbered from 0 as in the files."""
    folder = inside(root, "images")
    names = list_images(folder).images
    _check_meta(root, names)
    parsed: list[Row] = []
    for file in names:
        match = NAME.match(file.rpartition("/")[2])
        if match is None:
            raise DatasetError(
                f"{folder / file}: the name is not <identity>_<camera>_<number>; rename or remove it"
            )
        parsed.append((str(folder / file), int(match.group(1)), int(match.group(2))))
    protocol = _protocol(root, split_id)
    return make_splits(
        name, str(root), {part: [row for row in parsed if row[1] in protocol[part]] for part in PARTS}
    )


def read_torchreid(root: Path, name: str, file: str, subset: str, *, split_id: int = 0) -> Splits:
    """CUHK03 as torchreid unpacks it: ``images_<subset>/`` and a JSON file with rows of path, identity, camera.

    Args:
        root: holds both; the paths in the file may be those of another machine.
        name: of the dataset.
        file: splits_new_<subset>.json or splits_classic_<subset>.json.
        subset: "labeled" or "detected".
        split_id: which of the file's splits.

    Raises:
        DatasetError: a file that does not hold such rows, or an image that is not there.
    """
    path, folder = inside(root, file), inside(root, f"images_{subset}")
    split = _chosen(path, split_id)
    try:
        rows: dict[str, list[Row]] = {
            part: [(str(folder / _last(image)), int(pid), int(cam)) for image, pid, cam in split[part]]
            for part in PARTS
        }
    except (TypeError, KeyError, ValueError) as error:
        raise DatasetError(
            f"{path}: split {split_id} needs train, query and gallery with rows [path, pid, camera] ({error!r})"
        ) from error
    return _there(make_splits(name, str(root), rows), path)


def read_torchreid_mat(root: Path, name: str, file: str, subset: str) -> Splits:
    """CUHK03's new protocol from ``images_<subset>/`` and the authors' MATLAB configuration.

    Source: Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017.

    Raises:
        DatasetError: a file that does not hold the protocol, or an image that is not there.
    """
    from scipy.io import loadmat  # only for those who have this layout

    path, folder = inside(root, file), inside(root, f"images_{subset}")
    try:
        content = loadmat(path)
        names = [
            str(entry[0]) for entry in content["filelist"].reshape(-1)
        ]  # 1_001_1_01.png: pair, pid, camera
        pids = content["labels"].reshape(-1)
        every: list[Row] = [
            (str(folder / _last(image)), int(pid), int(image.split("_")[2]))
            for image, pid in zip(names, pids)
        ]
        rows = {part: [every[i - 1] for i in content[f"{part}_idx"].reshape(-1).tolist()] for part in PARTS}
    except Exception as error:  # scipy raises nearly anything on damaged files
        raise DatasetError(
            f"{path}: cannot be read as CUHK03's new protocol with filelist, labels, train_idx, query_idx and "
            f"gallery_idx ({type(error).__name__}: {error})"
        ) from error
    return _there(make_splits(name, str(root), rows), path)


def _last(path: Any) -> str:
    """The file name of a path of any system."""
    return re.split(r"[/\\]", str(path))[-1]


def _there(splits: Splits, path: Path) -> Splits:
    """The splits, if all images that the file lists are there."""
    listed = [image for part in PARTS for image in getattr(splits, part).paths]
    missing = [image for image in listed if not is_file(Path(image))]
    if missing:
        raise DatasetError(
            f"{path}: {len(missing):,} of {len(listed):,} listed images are missing, first {missing[0][:300]}; "
            "unpack the dataset again"
        )
    return splits
