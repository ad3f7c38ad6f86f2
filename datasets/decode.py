"""From a file to pixels of the training size; also the decoding worker: ``decode.py FILE HEIGHT WIDTH``.

As a worker it reads [[row, path], ...] in JSON from its input, writes each image at its place in FILE ("-":
nowhere) and answers a line "row checksum reason" an image. It imports neither torch nor the package, so that it
starts at once and shares no lock, thread or file with its parent; it ends with the first answer nobody reads.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def decode(path: str, height: int, width: int) -> NDArray[np.uint8]:
    """Read an image as RGB and resize it as torchvision's ``Resize`` does with PIL (antialiased bilinear).

    Returns:
        Pixels [3, height, width].

    Raises:
        OSError, SyntaxError, ValueError and others of Pillow's: the file does not decode.
    """
    with Image.open(path) as image:
        if image.mode.startswith("I"):  # 16 bits (or 16 in 32): keep the high byte instead of clipping at 255
            high = np.asarray(image, dtype=np.int64) >> 8
            rgb = Image.fromarray(high.clip(0, 255).astype(np.uint8)).convert("RGB")
        else:
            rgb = image.convert("RGB")
    if rgb.size != (width, height):
        rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1))


def reason(error: Exception) -> str:
    """An error of the decoder in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def decode_into(
    items: Iterable[tuple[int, str]], file: int | None, height: int, width: int
) -> Iterator[tuple[int, int, str]]:
    """Decode (row, path) items into an open file, an image of 3 * height * width bytes a row.

    Yields:
        (row, CRC-32 of its bytes, why it does not decode or ""), a corrupt image being written as zeros.
    """
    size = 3 * height * width
    for row, path in items:
        problem = ""
        try:
            pixels = decode(path, height, width).tobytes()
        except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
            problem, pixels = reason(error), bytes(size)
        if file is not None:
            os.lseek(file, row * size, os.SEEK_SET)
            rest = memoryview(pixels)
            while rest:
                rest = rest[os.write(file, rest) :]
        yield row, zlib.crc32(pixels), problem


def main() -> None:
    target, height, width = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    file = None if target == "-" else os.open(target, os.O_WRONLY | getattr(os, "O_BINARY", 0))
    try:
        for row, checksum, problem in decode_into(json.load(sys.stdin), file, height, width):
            os.write(1, f"{row} {checksum} {problem[:500]}\n".encode()[:1000].rstrip(b"\n") + b"\n")
    except BrokenPipeError:
        sys.exit(1)


if __name__ == "__main__":
    main()
