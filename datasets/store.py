"""The decoded image store: one file of uint8 [N, 3, H, W], read by all processes through the page cache.

File: the images, then a description in JSON, then its CRC-32. The description holds for each image its CRC-32 or why
it does not decode (its pixels are zeros), and a key of the files' sizes and dates: a changed data set replaces its
store, since the file name is a key of the list of files and the image size. The file is read, never mapped: one that
is cut off meanwhile gives a short read, not a signal.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import random
import struct
import weakref
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from crossreid.datasets.decode import Size, decode_rows, reason
from crossreid.datasets.files import draft, locked, open_regular, read_rows, threads
from crossreid.datasets.pool import run

FORMAT = 3
CHECKED_BYTES = 4 << 30  # of larger stores only this much, drawn at random, is read at opening
FEW = 800  # images that one process decodes faster than several processes start
SHARE_BYTES = 16 << 20  # of pixels that a worker decodes at a time: it never waits for the next share
CHECKED_ROWS = 32  # that a thread checks at a time

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFiles:
    """Image files to decode.

    Args:
        paths: N of them.
        size: height and width in pixels, interpolation.
        workers: decoding processes.
        progress: show a bar on a terminal.
    """

    paths: tuple[str, ...]
    size: Size
    workers: int
    progress: bool

    @property
    def row_bytes(self) -> int:
        """Of an image's pixels."""
        return 3 * self.size[0] * self.size[1]

    @property
    def bytes(self) -> int:
        """Of all pixels."""
        return len(self.paths) * self.row_bytes

    def keys(self) -> tuple[str, str, dict[int, str]]:
        """Key of the list of files and the image size, key of the files' sizes and dates, and the files not there."""
        listed = json.dumps([*self.size, *map(os.path.abspath, self.paths)])
        names = hashlib.sha256(listed.encode(errors="surrogatepass"))
        state = hashlib.sha256(f"{FORMAT} {names.hexdigest()}".encode())
        missing = {}
        for row, path in enumerate(self.paths):
            try:
                stat = Path(path).stat()
            except (OSError, ValueError) as error:
                missing[row] = reason(error)
                state.update(b"-")
            else:  # the date of the last change of the entry, too: others may be set back
                state.update(struct.pack("<qqq", stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
        return names.hexdigest()[:16], state.hexdigest(), missing

    def decode(self, target: str = os.devnull) -> list[int | str]:
        """Decode all files into their rows of the file ``target``, by default only to try.

        Returns:
            CRC-32 of each image, or why it does not decode [N].

        Raises:
            OSError: the file cannot be written, or a worker was killed.
        """
        count = len(self.paths)
        share = max(1, min(SHARE_BYTES // self.row_bytes, count // (4 * max(1, self.workers))))
        shares = [(row, self.paths[row : row + share]) for row in range(0, count, share)]
        work = functools.partial(decode_rows, target, self.size)
        images: list[int | str] = []
        hidden = None if self.progress else True  # None: shown on a terminal
        with tqdm(total=count, desc="decoding images", unit="image", disable=hidden, leave=False) as bar:
            for found in run(work, shares, self.workers if count >= FEW else 1):
                images += found
                bar.update(len(found))
        return images


class Store:
    """An open store, closed when nobody needs it any more.

    Args:
        path: the file.
        row_bytes: of an image, 3 * H * W.
        corrupt: rows that do not decode, with the reason.
        temporary: the last process to close the file removes it.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, row_bytes: int, corrupt: dict[int, str], temporary: bool) -> None:
        self.path, self.row_bytes, self.corrupt, self.temporary = path, row_bytes, corrupt, temporary
        self.handle = open_regular(path)
        weakref.finalize(self, os.close, self.handle)
        if temporary:
            import fcntl

            fcntl.flock(self.handle, fcntl.LOCK_SH)
            weakref.finalize(self, remove_unused, self.handle, path)  # the last one registered runs first
        self._stamp = _stamp(self.handle)

    def __reduce__(self) -> tuple[object, ...]:  # a worker that is spawned opens the file again
        return Store, (self.path, self.row_bytes, self.corrupt, self.temporary)

    def read(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> bool:
        """Copy rows [B] into ``out`` [B, 3 * H * W]; False where the file was cut off or written to meanwhile."""
        return read_rows(self.handle, rows, out) and _stamp(self.handle) == self._stamp


def _stamp(handle: int) -> tuple[int, int]:
    stat = os.fstat(handle)
    return stat.st_size, stat.st_mtime_ns


def remove_unused(handle: int, path: Path) -> None:
    """Remove an open temporary store that no other process uses."""
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while somebody else holds it
        if os.path.samestat(os.fstat(handle), path.stat()):  # not one that was built anew under its name
            path.unlink()


def open_store(
    path: Path, files: ImageFiles, key: str, *, temporary: bool = False, every_row: bool = False
) -> Store:
    """Open a store after checking it.

    Args:
        path: the file.
        files: whose pixels it holds.
        key: of their sizes and dates.
        temporary: the last process to close the file removes it.
        every_row: check all images, however large the store is.

    Raises:
        OSError: it is not there (FileNotFoundError), stale or damaged.
    """
    count, row_bytes = len(files.paths), files.row_bytes
    store = Store(path, row_bytes, {}, temporary)
    tail = os.pread(store.handle, max(4, os.fstat(store.handle).st_size - files.bytes), files.bytes)
    if not tail[:-4] or zlib.crc32(tail[:-4]) != int.from_bytes(tail[-4:], "little"):
        raise OSError("incomplete or damaged")
    try:
        about = json.loads(tail[:-4])
        if about["key"] != key:
            raise OSError("older than the images")
        images = list(about["images"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise OSError(f"no description of images ({reason(error)})") from error
    store.corrupt |= corrupt_rows(images)
    rows = [row for row in range(count) if row not in store.corrupt]
    if files.bytes > CHECKED_BYTES and not every_row:
        rows = sorted(random.SystemRandom().sample(rows, min(len(rows), CHECKED_BYTES // row_bytes)))

    def sound(first: int) -> bool:
        return all(
            zlib.crc32(os.pread(store.handle, row_bytes, row * row_bytes)) == images[row]
            for row in rows[first : first + CHECKED_ROWS]
        )

    parts = range(0, len(rows), CHECKED_ROWS)
    if len(images) != count or not all(threads(os.getpid()).map(sound, parts)):
        raise OSError("damaged")
    return store


def corrupt_rows(images: Sequence[int | str]) -> dict[int, str]:
    """Rows of ``ImageFiles.decode`` that do not decode, with the reason."""
    return {row: why for row, why in enumerate(images) if isinstance(why, str)}


def _build(path: Path, files: ImageFiles, key: str) -> None:
    logger.info("decoding %d images into %s (%.2f GB), once", len(files.paths), path, files.bytes / 1e9)
    with draft(path) as partial, partial.open("xb") as file:
        if hasattr(
            os, "posix_fallocate"
        ):  # a disk or quota that is too full says so now, not after the decoding
            os.posix_fallocate(file.fileno(), 0, files.bytes)
        text = json.dumps({"key": key, "images": files.decode(str(partial))}).encode()
        file.seek(files.bytes)
        file.write(text + zlib.crc32(text).to_bytes(4, "little"))
        file.flush()
        if files.bytes > CHECKED_BYTES:  # smaller ones are read whole at each opening
            os.fsync(file.fileno())


def obtain(path: Path, files: ImageFiles, key: str, *, temporary: bool, room: Callable[[], int]) -> Store:
    """Open the store of some files, building it first where it is missing, stale or damaged.

    Args:
        path: where the store lies.
        files: what it shall hold.
        key: of their sizes and dates.
        temporary: the last process to close the store removes it.
        room: bytes that a new store may take, asked when its turn to be built has come.

    Raises:
        OSError: the store cannot be written (disk full, no permission).
    """
    with contextlib.suppress(OSError):
        return open_store(path, files, key, temporary=temporary)
    with locked(path.with_name(".lock")) as held:
        try:
            return open_store(
                path, files, key, temporary=temporary
            )  # another process may have built it meanwhile
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.info("image store %s: %s; building it again", path, error.strerror or error)
        for left in path.parent.glob("*.tmp") if held else ():  # by killed processes
            left.unlink(missing_ok=True)
        if (free := room()) < files.bytes:
            raise OSError(f"{files.bytes / 1e6:,.1f} MB needed, {max(free, 0) / 1e6:,.1f} MB to spare")
        _build(path, files, key)
        return open_store(path, files, key, temporary=temporary, every_row=True)
