"""From an image file to pixels of the training size. Imports neither torch nor configs: workers start at once."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from crossreid.datasets.files import open_regular

Size = tuple[int, int, str]  # height and width in pixels, interpolation
Box = Callable[[int, int], tuple[int, int, int, int]]
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened image of any kind as 8-bit RGB."""
    if image.mode.startswith("I"):  # 16 bits (or 16 in 32): keep the high byte instead of clipping at 255
        high = np.asarray(image, dtype=np.int64) >> 8
        return Image.fromarray(high.clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def decode(
    path: str, height: int, width: int, interpolation: str = "bilinear", box: Box | None = None
) -> NDArray[np.uint8]:
    """Read an image as RGB and resize it as torchvision's ``Resize`` does with PIL (antialiased).

    Args:
        path: a regular file.
        height: in pixels.
        width: in pixels.
        interpolation: a key of ``FILTERS``.
        box: from the image's width and height to what is cut from it before: left, top, right, bottom.

    Returns:
        Pixels [3, height, width].

    Raises:
        OSError, SyntaxError, ValueError and others of Pillow's: the file does not decode.
    """
    with os.fdopen(open_regular(path), "rb") as file, Image.open(file) as image:
        rgb = to_rgb(image)
    if box is not None:
        rgb = rgb.crop(box(*rgb.size))
    if rgb.size != (width, height):
        rgb = rgb.resize((width, height), FILTERS[interpolation])
    return np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1))


def reason(error: Exception) -> str:
    """An error of the decoder in one line of at most 300 characters, without the file's path."""
    if isinstance(error, UnidentifiedImageError):
        text = "no kind of image that Pillow knows"
    else:
        text = getattr(error, "strerror", None) or str(error)
    return " ".join(f"{type(error).__name__}: {text}".split())[:300]


def decode_rows(
    target: str, size: Size, share: tuple[int, Sequence[str]]
) -> tuple[list[int], dict[int, str]]:
    """Decode some images into their rows of a file, corrupt ones as zeros.

    Args:
        target: the file ("": only try whether they decode).
        size: height, width, interpolation.
        share: the first row, and the images from it on.

    Returns:
        CRC-32 of each image's bytes, and for rows that do not decode the reason.
    """
    first, paths = share
    pixels = np.zeros((len(paths), 3, *size[:2]), np.uint8)
    corrupt = {}
    for row, path in enumerate(paths):
        try:
            pixels[row] = decode(path, *size)
        except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
            corrupt[first + row] = reason(error)
    if target:
        with Path(target).open("r+b") as file:
            file.seek(first * pixels[0].nbytes)
            file.write(pixels.data)
    return [zlib.crc32(image.data) for image in pixels], corrupt
