"""What an index knows of its photos, a column each: ``photos.npz``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossreid.engine.deploy.photos import Photo

Array = NDArray[Any]


@dataclass(frozen=True)
class Columns:
    """What is known of N photos, a column each.

    Args:
        paths: absolute.
        cameras, tracks, persons: [N] codes into the names; -1: unknown.
        times: [N] seconds or frames; NaN: unknown.
        stamps: [N, 2] size and change time (ns) of the file when it was read.
    """

    paths: list[str]
    cameras: Array
    tracks: Array
    persons: Array
    times: Array
    stamps: Array
    camera_names: list[str]


def _codes(values: Sequence[str]) -> tuple[Array, list[str]]:
    names = sorted(set(values) - {""})
    place = {name: code for code, name in enumerate(names)} | {"": -1}
    return np.array([place[value] for value in values], np.int32), names


def _blob(names: Sequence[str]) -> Array:
    return np.frombuffer("\0".join(names).encode("utf-8", "surrogateescape"), np.uint8)


def write_columns(path: Path, photos: Sequence[Photo], stamps: Array, cameras: list[str]) -> None:
    """Write what is known of photos.

    Args:
        stamps: [N, 2].
        cameras: all names, in the order of their codes.
    """
    tracks, persons = (_codes([getattr(photo, name) for photo in photos]) for name in ("track", "person"))
    code = {name: number for number, name in enumerate(cameras)}
    np.savez(
        path,
        paths=_blob([photo.path for photo in photos]),
        cameras=np.array([code[photo.camera] for photo in photos], np.int32),
        tracks=tracks[0],
        persons=persons[0],
        times=np.array([photo.time for photo in photos], np.float64),
        stamps=stamps,
    )


def read_columns(path: Path, cameras: list[str]) -> Columns:
    """Read what ``write_columns`` wrote.

    Raises:
        ValueError, and what NumPy raises: a damaged file.
    """
    with np.load(path, allow_pickle=False) as file:
        paths = file["paths"].tobytes().decode("utf-8", "surrogateescape").split("\0")
        columns = Columns(
            paths,
            file["cameras"],
            file["tracks"],
            file["persons"],
            file["times"],
            file["stamps"],
            cameras,
        )
    rows = len(paths)
    for name, kinds, shape in (
        ("cameras", "iu", (rows,)), ("tracks", "iu", (rows,)), ("persons", "iu", (rows,)), ("times", "f", (rows,)),
        ("stamps", "iu", (rows, 2)),
    ):  # fmt: skip
        values = getattr(columns, name)
        if values.dtype.kind not in kinds or values.shape != shape:
            raise ValueError(f"{name} are {values.dtype} {values.shape} for {rows} photos")
    if rows and not 0 <= int(columns.cameras.min()) <= int(columns.cameras.max()) < len(cameras):
        raise ValueError(f"a camera that is not among the {len(cameras)} names")
    return columns


def camera_names(cameras: Any) -> list[str]:
    """The camera names that an ``index.json`` holds; raises ValueError for anything else."""
    if not isinstance(cameras, list) or not all(isinstance(name, str) for name in cameras):
        raise ValueError(f"cameras {str(cameras)[:60]}")
    return cameras
