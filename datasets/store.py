"""The decoded image store: one file of uint8 [N, 3, H, W], read by all processes through the page cache.

File: the images, then N CRC-32 of four bytes, then a JSON description, then a footer (magic, length and CRC-32
of the JSON). The file name is a key of the list of files and the image size; the description holds a key of their
sizes and dates, so that a changed data set replaces its store instead of leaving it behind. The file is read, never
mapped: one that is cut off meanwhile gives a short read, not a signal.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import struct
import time
import weakref
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from crossreid.datasets.decode import Size, decode_rows, reason
from crossreid.datasets.files import draft, locked, open_regular, read_rows, threads
from crossreid.datasets.pool import run

FORMAT = 2
MAGIC = b"reid-u8\n"
FOOTER = struct.Struct("<8sQI")
CHECKED_BYTES = 4 << 30  # of larger stores only this much, drawn at random, is read at opening
FEW = 800  # images that one process decodes faster than several processes start
SHARE_BYTES = 16 << 20  # of pixels that a worker decodes at a time: it never waits for the next share
CHECKED_ROWS = 32  # that a thread checks at a time

logger = logging.getLogger(__name__)


class Store:
    """An open store.

    Args:
        path: the file.
        handle: its descriptor, closed with the store.
        row_bytes: of an image, 3 * H * W.
        corrupt: rows that do not decode, with the reason; their pixels are zeros.
    """

    def __init__(self, path: Path, handle: int, row_bytes: int, corrupt: dict[int, str]) -> None:
        self.path, self.handle, self.row_bytes, self.corrupt = path, handle, row_bytes, corrupt
        self._stamp = _stamp(handle)
        self._closing: weakref.finalize[..., Store] = weakref.finalize(self, os.close, handle)

    def on_close(self, function: Callable[[int, Path], None]) -> None:
        """Call this with descriptor and path at the end, in place of ``os.close``."""
        self._closing.detach()
        self._closing = weakref.finalize(self, function, self.handle, self.path)

    def __reduce__(self) -> tuple[object, ...]:  # a worker that is spawned opens the file again
        return _reopen, (self.path, self.row_bytes, self.corrupt)

    def read(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> bool:
        """Copy rows [B] into ``out`` [B, 3 * H * W]; False where the file was cut off or written to meanwhile."""
        return read_rows(self.handle, rows, out) and _stamp(self.handle) == self._stamp


def _stamp(handle: int) -> tuple[int, int]:
    stat = os.fstat(handle)
    return stat.st_size, stat.st_mtime_ns


def _reopen(path: Path, row_bytes: int, corrupt: dict[int, str]) -> Store:
    return Store(path, open_regular(path), row_bytes, corrupt)


def content_keys(paths: Sequence[str], size: Size) -> tuple[str, str, dict[int, str]]:
    """Key of the list of files and the image size, key of the files' sizes and dates, and the files not there."""
    names = hashlib.sha256(json.dumps([*size, *map(os.path.abspath, paths)]).encode(errors="surrogatepass"))
    state = hashlib.sha256(f"{FORMAT} {names.hexdigest()}".encode())
    missing = {}
    for row, path in enumerate(paths):
        try:
            stat = Path(path).stat()
        except (OSError, ValueError) as error:
            missing[row] = reason(error)
            state.update(b"-")
        else:  # the date of the last change of the entry, too: others may be set back
            state.update(struct.pack("<qqq", stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return names.hexdigest()[:16], state.hexdigest(), missing


def open_store(path: Path, key: str, count: int, row_bytes: int, *, every_row: bool = False) -> Store | str:
    """Open a store after checking it, or say why it cannot be used ("": it is not there).

    Args:
        path: the file.
        key: of the images' sizes and dates.
        count: N images.
        row_bytes: of an image, 3 * H * W.
        every_row: check all images, however large the store is.
    """
    try:
        handle = open_regular(path)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"cannot be read ({reason(error)})"
    found = _checked(path, handle, key, count, row_bytes, every_row)
    if isinstance(found, str):
        os.close(handle)
    return found


def _checked(path: Path, handle: int, key: str, count: int, row_bytes: int, every_row: bool) -> Store | str:
    try:
        with os.fdopen(handle, "rb", closefd=False) as file:
            size = file.seek(0, os.SEEK_END)
            if size < FOOTER.size:
                return "is incomplete"
            file.seek(size - FOOTER.size)
            magic, length, crc = FOOTER.unpack(file.read(FOOTER.size))
            start = size - FOOTER.size - length
            if magic != MAGIC or start < 0:
                return "is incomplete"
            file.seek(start)
            text = file.read(length)
            if zlib.crc32(text) != crc:
                return "has a damaged description"
            about = json.loads(text)
            if about["key"] != key:
                return "is older than the images"
            corrupt = {int(row): str(why) for row, why in about["corrupt"]}
            if start != count * (row_bytes + 4) or any(not 0 <= row < count for row in corrupt):
                return "has the wrong size"
            file.seek(count * row_bytes)
            checksums = np.frombuffer(file.read(4 * count), "<u4")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"cannot be read ({reason(error)})"
    rows = np.arange(count)
    if count * row_bytes > CHECKED_BYTES and not every_row:
        rows = np.sort(np.random.default_rng().choice(count, CHECKED_BYTES // row_bytes, replace=False))
    if not _sound(handle, row_bytes, rows, checksums):
        return "is damaged"
    return Store(path, handle, row_bytes, corrupt)


def _sound(handle: int, row_bytes: int, rows: NDArray[np.int64], checksums: NDArray[np.uint32]) -> bool:
    """Whether these rows have the bytes that were written."""

    def sound(part: NDArray[np.int64]) -> bool:
        block = np.empty((len(part), row_bytes), np.uint8)
        return read_rows(handle, part, block, parts=1) and all(
            zlib.crc32(image.data) == checksum for image, checksum in zip(block, checksums[part])
        )

    return all(
        threads(os.getpid()).map(sound, np.split(rows, np.arange(CHECKED_ROWS, len(rows), CHECKED_ROWS)))
    )


def decode_all(
    paths: Sequence[str], size: Size, target: str, workers: int, progress: bool
) -> tuple[NDArray[np.uint32], dict[int, str]]:
    """Decode all files into their rows of the file ``target`` (or only try to, where it is "").

    Returns:
        CRC-32 of each image [N], and the rows that do not decode with the reason.

    Raises:
        OSError: the file cannot be written, or a worker was killed.
    """
    share = max(1, min(SHARE_BYTES // (3 * size[0] * size[1]), len(paths) // (4 * max(1, workers))))
    shares = [(row, paths[row : row + share]) for row in range(0, len(paths), share)]
    work = functools.partial(decode_rows, target, size)
    checksums: list[int] = []
    corrupt: dict[int, str] = {}
    hidden = None if progress else True  # None: shown on a terminal
    with tqdm(total=len(paths), desc="decoding images", unit="image", disable=hidden, leave=False) as bar:
        for found, problems in run(work, shares, workers if len(paths) >= FEW else 1):
            checksums += found
            corrupt |= problems
            bar.update(len(found))
    return np.array(checksums, np.uint32), corrupt


def _build(target: Path, paths: Sequence[str], size: Size, key: str, workers: int, progress: bool) -> None:
    total = len(paths) * 3 * size[0] * size[1]
    start = time.monotonic()
    logger.info("decoding %d images into %s (%.2f GB), once", len(paths), target, total / 1e9)
    with draft(target) as path, path.open("xb") as file:
        if hasattr(os, "posix_fallocate"):  # a disk that is too full says so now
            os.posix_fallocate(file.fileno(), 0, total + 4 * len(paths))
        checksums, corrupt = decode_all(paths, size, str(path), workers, progress)
        about = {"key": key, "count": len(paths), "size": size, "corrupt": sorted(corrupt.items())}
        text = json.dumps(about).encode()
        file.seek(total)
        file.write(checksums.astype("<u4").tobytes() + text + FOOTER.pack(MAGIC, len(text), zlib.crc32(text)))
        file.flush()
        if total > CHECKED_BYTES:  # smaller ones are read whole at each opening
            os.fsync(file.fileno())
    logger.info("decoded %d images in %.1f s", len(paths), time.monotonic() - start)


def obtain(
    paths: Sequence[str],
    size: Size,
    key: str,
    target: Path,
    *,
    workers: int,
    progress: bool,
    room: Callable[[], int],
) -> Store:
    """Open the store of these files at this size, building it first where it is missing, stale or damaged.

    Args:
        paths: N image files.
        size: height and width in pixels, interpolation.
        key: of the files' sizes and dates.
        target: where the store lies; its folder is made if needed.
        workers: decoding processes.
        progress: show a bar on a terminal.
        room: how many bytes a new store may take.

    Raises:
        OSError: the store cannot be written (disk full, no permission).
    """
    row_bytes = 3 * size[0] * size[1]
    store = open_store(target, key, len(paths), row_bytes)
    if isinstance(store, Store):
        return store
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent) as held:
        store = open_store(target, key, len(paths), row_bytes)  # another process may have built it meanwhile
        if isinstance(store, str):
            if store:
                logger.info("image store %s %s: building it again", target, store)
            for left in target.parent.glob("*.tmp") if held else ():  # by killed processes
                left.unlink(missing_ok=True)
            if (free := room()) < len(paths) * row_bytes:
                raise OSError(
                    f"{len(paths) * row_bytes / 1e6:,.1f} MB needed, {max(free, 0) / 1e6:,.1f} MB to spare"
                )
            _build(target, paths, size, key, workers, progress)
            store = open_store(target, key, len(paths), row_bytes, every_row=True)
    if isinstance(store, str):
        raise OSError(f"the store just written {store or 'is gone'}")
    return store
