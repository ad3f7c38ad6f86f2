"""The decoded image store: one file of uint8 [N, 3, H, W], memory-mapped and shared by all processes.

File: the images, then N CRC-32 of four bytes, then a JSON description, then a footer (magic, length and CRC-32
of the JSON). The file name is a key of the list of files and the image size; the description holds a key of their
sizes and dates, so that a changed data set replaces its store instead of leaving it behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossreid.datasets.splits import DatasetError
from crossreid.datasets.workers import decode_all

try:
    import fcntl
except ImportError:  # Windows: no lock, every process builds its own and the last one stays
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
MAGIC = b"reid-u8\n"
FOOTER = struct.Struct("<8sQI")
CHECKED_BYTES = 4 << 30  # of larger stores only this much, evenly spread, is read at opening

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Store:
    """An open store: ``images`` [N, 3 * H * W], read only; and the rows that do not decode, with the reason."""

    path: Path
    images: NDArray[np.uint8]
    corrupt: dict[int, str]

    def __reduce__(self) -> tuple[object, ...]:  # a worker that is spawned maps the file again
        return _reopen, (self.path, self.images.shape, self.corrupt)


def _map(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.asarray(np.memmap(path, np.uint8, "r", shape=shape))


def _reopen(path: Path, shape: tuple[int, ...], corrupt: dict[int, str]) -> Store:
    return Store(path, _map(path, shape), corrupt)


def content_keys(paths: Sequence[str], height: int, width: int) -> tuple[str, str]:
    """Key of the list of files and the image size, and key of the files' sizes and dates and the format."""
    names = hashlib.sha256(json.dumps([height, width, *map(os.path.abspath, paths)]).encode())
    state = hashlib.sha256(f"{FORMAT} {names.hexdigest()}".encode())
    for path in paths:
        try:
            stat = Path(path).stat()
        except OSError as error:
            raise DatasetError(
                f"{path}: cannot be read ({error.strerror}); was it moved since it was listed?"
            ) from error
        state.update(struct.pack("<qq", stat.st_size, stat.st_mtime_ns))
    return names.hexdigest()[:16], state.hexdigest()


def open_store(path: Path, key: str, count: int, row_bytes: int) -> Store | str:
    """Map a store after checking it, or say why it cannot be used."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - FOOTER.size))
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
            if start != count * (row_bytes + 4):
                return "has the wrong size"
            file.seek(count * row_bytes)
            checksums = np.frombuffer(file.read(4 * count), "<u4")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, struct.error) as error:
        return f"cannot be read ({error})"
    images = _map(path, (count, row_bytes))
    step = max(1, -(-count * row_bytes // CHECKED_BYTES))
    for row in range(0, count, step):
        if zlib.crc32(images[row]) != checksums[row]:
            return "is damaged"
    return Store(path, images, {int(row): why for row, why in about["corrupt"]})


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder: one process builds, the others wait. The lock ends with its process, however it ends."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # file systems without locks: every process builds its own
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("waiting for another process that decodes images into %s", folder)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _new_file(target: Path) -> Iterator[tuple[int, str]]:
    """A nameless file that becomes ``target`` at the end; where that is impossible, one with another name."""
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    for old in target.parent.glob(f"{target.name}.*.tmp"):
        old.unlink(missing_ok=True)
    try:
        handle = os.open(target.parent, os.O_TMPFILE | os.O_RDWR, 0o644)
        nameless = True
    except (AttributeError, OSError):
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), 0o644)
        nameless = False
    try:
        yield handle, f"/proc/{os.getpid()}/fd/{handle}" if nameless else str(temporary)
        if (
            nameless
        ):  # naming a file that has none needs linkat with "follow", which a directory handle selects
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.link(f"/proc/self/fd/{handle}", temporary.name, src_dir_fd=folder, dst_dir_fd=folder)
            finally:
                os.close(folder)
        else:
            os.close(handle)
            handle = -1
        temporary.replace(target)
    finally:
        if handle >= 0:
            os.close(handle)
        temporary.unlink(missing_ok=True)


def _build(
    target: Path, paths: Sequence[str], size: tuple[int, int], key: str, workers: int, progress: bool
) -> None:
    height, width = size
    total = len(paths) * 3 * height * width
    start = time.monotonic()
    logger.info("decoding %d images into %s (%.2f GB), once", len(paths), target, total / 1e9)
    with _new_file(target) as (handle, name):
        if hasattr(os, "posix_fallocate"):  # a disk that is too full says so now
            os.posix_fallocate(handle, 0, total + 4 * len(paths))
        checksums, corrupt = decode_all(paths, size, handle, name, workers, progress)
        text = json.dumps(
            {"key": key, "count": len(paths), "size": size, "corrupt": sorted(corrupt.items())}
        ).encode()
        rest = checksums.astype("<u4").tobytes() + text + FOOTER.pack(MAGIC, len(text), zlib.crc32(text))
        os.lseek(handle, total, os.SEEK_SET)
        while rest:
            rest = rest[os.write(handle, rest) :]
    logger.info("decoded %d images in %.1f s", len(paths), time.monotonic() - start)


def obtain(
    paths: Sequence[str],
    size: tuple[int, int],
    folder: Path,
    label: str,
    *,
    workers: int,
    progress: bool,
    room: Callable[[], int],
) -> Store:
    """Open the store of these files at this size, building it first where it is missing, stale or damaged.

    Args:
        paths: N image files.
        size: height and width in pixels.
        folder: where stores lie; made if needed.
        label: beginning of the file name, for people.
        workers: decoding processes.
        room: how many bytes a new store may take.

    Raises:
        OSError: the store cannot be written (disk full, no permission).
        DatasetError: an image file is gone.
    """
    names, key = content_keys(paths, *size)
    target = folder / f"{label.replace('/', '-').replace(':', '-')}-{size[0]}x{size[1]}-{names}.u8"
    row_bytes = 3 * size[0] * size[1]
    store = open_store(target, key, len(paths), row_bytes)
    if isinstance(store, Store):
        return store
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        store = open_store(target, key, len(paths), row_bytes)  # another process may have built it meanwhile
        if isinstance(store, str):
            if store:
                logger.info("image store %s %s: building it again", target, store)
            if (free := room()) < len(paths) * row_bytes:
                raise OSError(
                    f"{len(paths) * row_bytes / 1e9:.2f} GB needed, {max(free, 0) / 1e9:.2f} GB to spare"
                )
            _build(target, paths, size, key, workers, progress)
            store = open_store(target, key, len(paths), row_bytes)
    if isinstance(store, str):
        raise OSError(f"the store just written {store or 'is gone'}")
    return store
