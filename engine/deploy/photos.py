"""Photos on disk: which there are, their camera, their time and track, and their pixels."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossreid.datasets.decode import decode, reason, to_rgb
from crossreid.datasets.listing import list_images, loose_images, subfolders
from crossreid.datasets.pool import available_cores
from crossreid.engine.errors import InputError

SMALLEST = 8  # pixels of the shorter side
STAMP = re.compile(
    r"(?<!\d)(20\d\d)[-_.]?([01]\d)[-_.]?([0-3]\d)[-_T .]?([0-2]\d)[-_.:h]?([0-5]\d)[-_.:m]?([0-5]\d)(?:[.,](\d{1,6}))?"
)
EPOCH = re.compile(r"(?<!\d)(1\d{9})(\d{3})?(?!\d)")  # seconds or milliseconds since 1970
FRAME = re.compile(r"(?<![a-z])f(?:rame)?[-_]?(\d{3,})", re.IGNORECASE)

Image8 = NDArray[np.uint8]


@dataclass(frozen=True)
class Photo:
    """A photo and what is known of it.

    Args:
        camera: its name.
        time: seconds since 1970, or a frame number; NaN: unknown.
        track: photos of one track are of one person; empty: unknown.
        person: a label; empty: unknown.
    """

    path: str
    camera: str
    time: float = math.nan
    track: str = ""
    person: str = ""


def list_photos(source: Path) -> list[Photo]:
    """The photos of a CSV or of a folder with one folder a camera, sorted by path.

    Folders inside a camera's folder are tracks. Photos that lie beside the camera folders, or in a folder without
    any, are of one camera of the folder's name.

    Args:
        source: a folder, or a CSV with the columns path and camid (or camera) and, as far as known, time, track, pid.

    Raises:
        InputError: nothing there, an empty camera folder, a CSV that does not parse.
    """
    if source.is_file() and source.suffix.lower() == ".csv":
        return _from_csv(source)
    if not source.is_dir():
        raise InputError(f"{source}: no such folder or CSV: give a folder with one folder of photos a camera")
    photos = [_photo(Path(path), source.name, "") for path in loose_images(source)]
    for camera in subfolders(source):
        found = list_images(camera).images
        if not found:
            raise InputError(f"{camera}: an empty camera folder: put photos there or remove it")
        for name in found:
            track = name.rpartition("/")[0]
            photos.append(_photo(camera / name, camera.name, f"{camera.name}/{track}" if track else ""))
    if not photos:
        raise InputError(f"{source}: no photos and no camera folders there")
    return sorted(photos, key=lambda photo: photo.path)


def _photo(path: Path, camera: str, track: str) -> Photo:
    return Photo(str(path), camera, time_of(path.name), track)


def time_of(name: str) -> float:
    """The moment that a file name tells: a date with a time, seconds since 1970, or a frame; NaN if none.

    Times of day count as UTC: only differences matter.
    """
    if match := STAMP.search(name):
        *numbers, fraction = match.groups()
        try:
            moment = datetime(*map(int, numbers), tzinfo=timezone.utc)  # type: ignore[misc,arg-type]
        except ValueError:
            return math.nan
        return moment.timestamp() + float(f"0.{fraction or 0}")
    if match := EPOCH.search(name):
        return int(match[1]) + int(match[2] or 0) / 1000
    if match := FRAME.search(name):
        return float(match[1])
    return math.nan


def parse_time(text: str) -> float:
    """A moment from a command line or a CSV: a number, or a date with or without a time.

    Raises:
        InputError: it is neither.
    """
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InputError(
            f"time {text!r} is neither a number nor like 2024-05-01 or 2024-05-01T12:30:00"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _from_csv(source: Path) -> list[Photo]:
    photos = []
    try:
        with source.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            fields = reader.fieldnames or ()
            camera = next((name for name in ("camera", "camid") if name in fields), None)
            if "path" not in fields or camera is None:
                raise InputError(
                    f"{source}: needs the columns path and camid (or camera), found {','.join(fields)!r}"
                )
            for row in reader:
                path = source.parent / (row["path"] or "").strip()
                if not path.is_file():
                    raise InputError(f"{source}, line {reader.line_num}: no such photo {path}")
                given = (row.get("time") or "").strip()
                name, person = (row[camera] or "").strip(), (row.get("pid") or "").strip()
                track = (row.get("track") or "").strip()
                photos.append(
                    Photo(
                        str(path),
                        name,
                        parse_time(given) if given else time_of(path.name),
                        f"{name}/{track}" if track else "",
                        "" if person == "-1" else person,
                    )
                )
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: cannot be read ({error})") from None
    if not photos:
        raise InputError(f"{source}: lists no photo")
    return sorted(photos, key=lambda photo: photo.path)


def expand(paths: Sequence[str | Path]) -> list[str]:
    """The image files that some paths name: files as they are, folders with all that lies below, sorted.

    Raises:
        InputError: a path that is not there, a folder without images.
    """
    files: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = [str(path / name) for name in list_images(path).images]
            if not found:
                raise InputError(f"{path}: no photos below this folder")
            files += found
        elif path.is_file():
            files.append(str(path))
        else:
            raise InputError(f"{path}: no such file or folder")
    return files


def pixels_of(item: str | Path | Image.Image | Image8, size: tuple[int, int]) -> Image8:
    """A photo as the network sees it, before normalisation: RGB [3, H, W].

    Args:
        item: a path, a PIL image, or RGB pixels [h, w, 3] of type uint8.
        size: H and W.

    Raises:
        InputError: it does not decode, is of another type or smaller than 8 pixels.
    """
    if isinstance(item, (str, Path)):
        name = str(item)
        try:
            with Image.open(name) as image:
                shape = image.size
            pixels = decode(name, *size)
        except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
            raise InputError(
                f"{name}: does not decode ({reason(error)}); restore or delete the file"
            ) from None
    else:
        if not isinstance(item, Image.Image):
            array = np.asarray(item)
            if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
                raise InputError(
                    f"an image array is {array.dtype} {array.shape}: give uint8 RGB pixels [height, width, 3]"
                )
            item = Image.fromarray(array)
        name, shape = "an image", item.size
        rgb = to_rgb(item)
        if rgb.size != size[::-1]:
            rgb = rgb.resize(size[::-1], Image.Resampling.BILINEAR)
        pixels = np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1))
    if min(shape) < SMALLEST:
        raise InputError(
            f"{name}: {shape[0]}x{shape[1]} pixels are too few to tell people apart: need {SMALLEST} on each side"
        )
    return pixels


def load_pixels(items: Sequence[str | Path | Image.Image | Image8], size: tuple[int, int]) -> Image8:
    """Photos as the network sees them, before normalisation: uint8 [B, 3, H, W], decoded on all cores."""
    out = np.empty((len(items), 3, *size), np.uint8)
    if len(items) == 1:
        out[0] = pixels_of(items[0], size)
        return out
    with ThreadPoolExecutor(min(8, available_cores())) as pool:
        for row, pixels in enumerate(pool.map(lambda item: pixels_of(item, size), items)):
            out[row] = pixels
    return out
