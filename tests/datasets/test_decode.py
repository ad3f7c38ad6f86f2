"""Pixels as viewers show them: orientation, and images of more than 8 bits a channel."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from crossreid.datasets.decode import decode, upright_size

GREY = np.random.default_rng(0).integers(0, 256, (64, 32)).astype(np.uint8)
GREY[0, 0] = 255


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["png", "webp"])
def test_photographs_are_decoded_upright(tmp_path: Path, orientation: int, extension: str) -> None:
    way = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    way |= {6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}  # how the sensor's picture lies
    upright = Image.fromarray(np.stack([GREY, GREY // 2, GREY // 3], -1))
    taken = upright.transpose(Image.Transpose[way[orientation]]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x112] = orientation
    taken.save(tmp_path / f"a.{extension}", exif=exif, lossless=True)
    pixels = decode(str(tmp_path / f"a.{extension}"), 64, 32)
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), np.asarray(upright))
    with Image.open(tmp_path / f"a.{extension}") as image:
        assert upright_size(image) == (32, 64)


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["16 bits", "32 bits", "float"])
def test_bits_in_use_of_deep_grey_images(tmp_path: Path, bits: int, kind: str) -> None:
    values = GREY.astype(np.int64) << (bits - 8)
    path = tmp_path / ("a.png" if kind == "16 bits" else "a.tif")
    Image.fromarray(values.astype({"16 bits": "<u2", "32 bits": "<i4", "float": "<f4"}[kind])).save(path)
    np.testing.assert_array_equal(decode(str(path), 64, 32), np.stack([GREY] * 3))


def test_deep_grey_images_of_other_ranges(tmp_path: Path) -> None:
    path = str(tmp_path / "a.tif")
    Image.fromarray(GREY.astype(np.float32) / 255).save(path)
    np.testing.assert_array_equal(decode(path, 64, 32)[0], GREY)
    for bad in (
        -GREY.astype(np.int32),
        np.full((64, 32), np.nan, np.float32),
        np.full((64, 32), 1e30, np.float32),
    ):
        Image.fromarray(bad).save(path)
        with pytest.raises(ValueError, match=r"grey values .*: save it with 8 bits"):
            decode(path, 64, 32)


def deep_png(values: NDArray[np.int64]) -> bytes:
    """A PNG with 16 bits a channel [H, W, 3], which Pillow cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("bits", "lost"), [(16, 0), (14, 2), (13, 3)])
def test_deep_colour_images_keep_their_brightness(tmp_path: Path, bits: int, lost: int) -> None:
    (tmp_path / "a.png").write_bytes(deep_png(np.stack([GREY] * 3, -1).astype(np.int64) << (bits - 8)))
    np.testing.assert_array_equal(decode(str(tmp_path / "a.png"), 64, 32)[0], GREY >> lost << lost)


def test_deep_colour_images_of_few_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(deep_png(np.stack([GREY] * 3, -1).astype(np.int64) << 4))
    with pytest.raises(ValueError, match="12 bits or fewer would turn black: save it with 8 bits a channel"):
        decode(str(tmp_path / "a.png"), 64, 32)
