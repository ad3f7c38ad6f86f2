"""Files that several processes use: regular ones only, written whole or not at all, by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import secrets
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

READERS = min(4, os.cpu_count() or 1)


def open_regular(path: str | Path) -> int:
    """A descriptor for reading a regular file; never waits for the other end of a FIFO.

    Raises:
        OSError: the file cannot be read, or is a folder, FIFO or device.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return handle


@contextlib.contextmanager
def locked(lock: Path) -> Iterator[bool]:
    """Hold a lock, a file that is made where it is missing: others wait. It ends with its process, however that ends.

    Yields:
        False where there are no locks: then nobody waits, and every process does the work.
    """
    with lock.open("a+b") as file:
        held = False
        with contextlib.suppress(OSError, ImportError):  # a file system without locks, Windows
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
            held = True
        yield held


@contextlib.contextmanager
def draft(target: Path) -> Iterator[Path]:
    """The name of a file to write; in the end it takes ``target``'s place. A failure leaves nothing behind."""
    path = target.with_name(f".{target.name}.{secrets.token_hex(6)}.{os.getpid()}.tmp")
    try:
        yield path
        path.replace(target)
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


@functools.cache
def threads(process: int) -> ThreadPoolExecutor:
    """Reading threads of this process (``os.getpid()``: a fork leaves its parent's behind)."""
    return ThreadPoolExecutor(READERS, "reader")


def read_rows(handle: int, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> bool:
    """Copy rows of a file of equal rows into ``out`` [B, bytes]; False where the file ends before one of them."""
    parts = min(READERS, len(rows) // 32 + 1)

    def read(part: int) -> bool:
        chosen = zip(out[part::parts], rows[part::parts].tolist())
        return all(os.preadv(handle, [row], start * len(row)) == len(row) for row, start in chosen)

    return all(list(threads(os.getpid()).map(read, range(parts)))) if parts > 1 else read(0)
