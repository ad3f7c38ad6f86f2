"""A gallery on disk: vectors in a memory map, and camera, time, track, person and path of every photo.

A folder of three files: ``vectors.npy`` [N, D] float16 or float32, ``photos.npz`` (columns of N), ``index.json``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossreid.datasets.files import draft
from crossreid.engine.deploy.columns import Array, Columns, camera_names, read_columns, write_columns
from crossreid.engine.deploy.embedder import Embedder
from crossreid.engine.deploy.photos import Photo, list_photos
from crossreid.engine.errors import InputError
from crossreid.engine.log import LOGGER

FORMAT = 1
META, VECTORS, PHOTOS = "index.json", "vectors.npy", "photos.npz"
DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class Index:
    """An opened index.

    Args:
        vectors: [N, D] memory map of unit vectors.
        meta: digest, dim, dtype, checkpoint, source, calibration.
    """

    folder: Path
    vectors: Array
    columns: Columns
    meta: dict[str, Any] = field(repr=False)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def digest(self) -> str:
        return str(self.meta["digest"])

    def camera(self, row: int) -> str:
        return self.columns.camera_names[int(self.columns.cameras[row])]

    def check_model(self, digest: str) -> None:
        """Refuse vectors of another network.

        Raises:
            InputError: the digests differ.
        """
        if digest != self.digest:
            raise InputError(
                f"{self.folder} was made by the model {self.digest}, this one is {digest}: use the checkpoint "
                f"{self.meta.get('checkpoint')}, or make the index anew in another folder"
            )

    @property
    def overrides(self) -> list[str]:
        """KEY VALUE pairs that the index was made with."""
        return list(self.meta.get("overrides", []))

    def embedder(
        self, checkpoint: str | None = None, device: str | None = None, overrides: Sequence[str] = ()
    ) -> Embedder:
        """The network that made the index: from the checkpoint that it names, or from one given.

        Args:
            overrides: KEY VALUE pairs beside the index's own; those that change vectors are refused.

        Raises:
            InputError: another network.
        """
        path = checkpoint or self.meta["checkpoint"]
        if not Path(path).is_file():
            raise InputError(f"{self.folder}: its checkpoint {path} is not there: name it with --checkpoint")
        embedder = Embedder(path, device=device, overrides=[*self.overrides, *overrides])
        self.check_model(embedder.digest)
        return embedder

    def remember(self, **values: Any) -> None:
        """Store values in ``index.json``."""
        self.meta.update(values)
        _write_json(self.folder / META, self.meta)


def open_index(folder: str | Path) -> Index:
    """Open an index; vectors stay on disk.

    Raises:
        InputError: none there, a truncated or foreign one.
    """
    folder = Path(folder)
    if not (folder / META).is_file():
        raise InputError(
            f"{folder}: no index there: make one with crossreid index CHECKPOINT CAMERAS --out {folder}"
        )
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise InputError(
                f"{folder} is an index of format {str(meta['format'])[:40]!r}, this version reads {FORMAT}"
            )
        vectors = np.load(folder / VECTORS, mmap_mode="c", allow_pickle=False)
        columns = read_columns(folder / PHOTOS, camera_names(meta["cameras"]))
        shape = (meta["count"], meta["dim"])
        if not isinstance(meta["digest"], str):
            raise ValueError(f"digest {meta['digest']!r}")
        if vectors.shape != shape or len(columns.paths) != shape[0] or str(vectors.dtype) != meta["dtype"]:
            raise ValueError(
                f"{vectors.dtype} {vectors.shape} vectors and {len(columns.paths)} photos for {shape}"
            )
    except InputError:
        raise
    except Exception as error:  # NumPy's reader and zipfile's raise nearly anything on damaged files
        why = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise InputError(f"{folder}: the index is truncated or damaged ({why}): make it anew") from None
    return Index(folder, vectors, columns, meta)


def build_index(
    embedder: Embedder,
    source: str | Path,
    folder: str | Path,
    *,
    dtype: str = "float16",
    skip_corrupt: bool = False,
    progress: bool = False,
) -> tuple[Index, dict[str, int]]:
    """Make an index of the photos of a folder or CSV, or bring one up to date: the result is that of a new one.

    A photo is embedded anew if its size or change time differ from when it was read.

    Args:
        source: see ``photos.list_photos``.
        folder: of the index.
        dtype: of the vectors on disk.
        skip_corrupt: leave out photos that do not decode, instead of refusing all.

    Returns:
        The index, and how many photos were added, removed and kept.

    Raises:
        InputError: no photos, a photo that does not decode, an index of another model, a folder of other things.
    """
    folder, source = Path(folder), Path(source)
    old = _previous(embedder, folder, dtype)
    photos = [replace(photo, path=os.path.abspath(photo.path)) for photo in list_photos(source)]  # noqa: PTH100
    stamps = np.array([_stamp(photo.path) for photo in photos], np.int64).reshape(-1, 2)
    known = _known(old, dtype) if old is not None else {}
    states = stamps.tolist()
    before = np.array([known.get((photo.path, *state), -1) for photo, state in zip(photos, states)], np.int64)
    new, reused = np.flatnonzero(before < 0), np.flatnonzero(before >= 0)
    fresh, bad = _embed(embedder, [photos[row].path for row in new], skip_corrupt, progress)
    keep = np.setdiff1d(np.arange(len(photos)), new[bad])
    if not len(keep):
        raise InputError(f"{source}: none of its {len(photos)} photos decodes")
    vectors = np.empty((len(photos), embedder.dim), dtype)
    vectors[new] = fresh
    if old is not None:
        vectors[reused] = old.vectors[before[reused]]
    calibration = (old.meta.get("calibration") if old else None) or embedder.calibration
    meta = _meta(embedder, source, dtype=dtype, count=len(keep), calibration=calibration)
    _write(folder, vectors[keep], [photos[row] for row in keep], stamps[keep], meta)
    index = open_index(folder)
    if len(index.columns.camera_names) == 1:
        LOGGER.warning("%s: one camera only: a search across cameras finds nothing", source)
    removed = (len(old) if old else 0) - len(reused)
    return index, {"added": len(new) - len(bad), "removed": removed, "kept": len(reused)}


def _previous(embedder: Embedder, folder: Path, dtype: str) -> Index | None:
    """The index that is there and may be brought up to date, None for a new one."""
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} of the index: choose {' or '.join(DTYPES)}")
    if (folder / META).is_file():
        old = open_index(folder)
        old.check_model(embedder.digest)
        return old
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} holds other things than an index: give another --out")
    return None


def _meta(embedder: Embedder, source: Path, **more: Any) -> dict[str, Any]:
    """What ``index.json`` says of the network and the photos."""
    return {
        "format": FORMAT,
        "digest": embedder.digest,
        "dim": embedder.dim,
        "checkpoint": os.path.abspath(embedder.checkpoint),  # noqa: PTH100
        "overrides": list(embedder.overrides),
        "source": os.path.abspath(source),  # noqa: PTH100
        **more,
    }


def _known(old: Index, dtype: str) -> dict[tuple[str | int, ...], int]:
    """Rows of photos whose vectors can be used again."""
    if old.meta["dtype"] != dtype:
        return {}
    stamps = old.columns.stamps.tolist()
    return {(path, *stamp): row for row, (path, stamp) in enumerate(zip(old.columns.paths, stamps))}


def _stamp(path: str) -> tuple[int, int]:
    state = os.stat(path)  # noqa: PTH116
    return state.st_size, state.st_mtime_ns


def _embed(
    embedder: Embedder, paths: Sequence[str], skip_corrupt: bool, progress: bool
) -> tuple[NDArray[np.float32], list[int]]:
    """Vectors, and places of the photos that do not decode."""
    bad: list[int] = []
    if skip_corrupt:
        from crossreid.engine.deploy.photos import pixels_of

        for place, path in enumerate(paths):
            try:
                pixels_of(path, embedder.size)
            except InputError as error:
                bad.append(place)
                LOGGER.warning("left out: %s", error)
    good = [place for place in range(len(paths)) if place not in set(bad)]
    vectors = np.zeros((len(paths), embedder.dim), np.float32)
    if good:
        vectors[good] = embedder([paths[place] for place in good], progress=progress, whole_batches=True)
    return vectors, bad


def _write(
    folder: Path, vectors: Array, photos: Sequence[Photo], stamps: Array, meta: dict[str, Any]
) -> None:
    """Write a whole index beside the old one, then let it take the old one's place."""
    partial, aside = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "old"))
    try:
        for path in (partial, aside):
            shutil.rmtree(path, ignore_errors=True)
        partial.mkdir(parents=True)
        np.save(partial / VECTORS, vectors)
        names = sorted({photo.camera for photo in photos})
        write_columns(partial / PHOTOS, photos, stamps, names)
        _write_json(partial / META, {**meta, "cameras": names})
        if folder.exists():
            folder.replace(aside)
        partial.replace(folder)
        shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(f"cannot write the index {folder} ({error})") from None


def _write_json(path: Path, meta: dict[str, Any]) -> None:
    with draft(path) as partial:
        partial.write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
