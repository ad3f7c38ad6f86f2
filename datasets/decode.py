"""From an image file to pixels of the training size. Imports neither torch nor configs: workers start at once."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from crossreid.datasets.files import open_regular

Size = tuple[int, int, str]  # height and width in pixels, interpolation
Box = Callable[[int, int], tuple[int, int, int, int]]
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
ORIENTATION = 0x112  # EXIF tag; 1 is upright


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened image as ``decode`` shows it."""
    width, height = image.size
    return (height, width) if image.getexif().get(ORIENTATION, 1) >= 5 else (width, height)


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened image of any kind as 8-bit RGB, upright (EXIF orientation).

    Images of 16 or 32 bits are scaled by the highest bit that the image uses, so that 12 bits in a file of 16 do not
    turn black; floats up to 1 by 255, larger ones as whole numbers.

    Raises:
        ValueError: values that are negative or not finite, or a colour image of 16 bits that uses 12 or fewer.
    """
    # of 16 bits a colour Pillow keeps the upper 8, of grey ones all
    deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    rgb = image.convert("RGB")
    unused = 8 - max(high for _, high in rgb.getextrema()).bit_length() if deep else 0
    if unused > 3:
        raise ValueError(
            "a 16-bit colour image whose values use 12 bits or fewer would turn black: save it with 8 bits a channel"
        )
    return rgb.point(lambda value: value << unused) if unused else rgb


def _eight_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey values of more than 8 bits [H, W] as 8 bits: the upper 8 of those that are in use."""
    if not np.isfinite(values).all() or values.min(initial=0) < 0:
        raise ValueError("grey values that are negative or not finite: save it with 8 bits")
    highest = float(values.max(initial=0))
    if values.dtype.kind == "f" and highest <= 1:
        return np.rint(values * 255).astype(np.uint8)
    if highest >= 2**53:
        raise ValueError(f"grey values up to {highest:.3g}: save it with 8 bits")
    return (values.astype(np.int64) >> max(0, int(highest).bit_length() - 8)).astype(np.uint8)


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


def decode_rows(target: str, size: Size, share: tuple[int, Sequence[str]]) -> list[int | str]:
    """Decode some images into their rows of a file, corrupt ones as zeros.

    Args:
        target: the file (``os.devnull``: only try whether they decode).
        size: height, width, interpolation.
        share: the first row, and the images from it on.

    Returns:
        CRC-32 of each image's bytes, or why it does not decode.
    """
    first, paths = share
    shape = (3, *size[:2])
    found: list[int | str] = []
    with Path(target).open("r+b") as file:
        file.seek(first * math.prod(shape))
        for path in paths:
            try:
                pixels = decode(path, *size)
                found.append(zlib.crc32(pixels.data))
            except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
                pixels = np.zeros(shape, np.uint8)
                found.append(reason(error))
            file.write(pixels.data)  # at once, while the pixels are in the processor's cache
    return found
