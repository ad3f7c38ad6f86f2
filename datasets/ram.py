"""Stores in shared memory (``DATASETS.CACHE: ram``): one copy for all ranks, gone with its last user."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crossreid.datasets.store import Store

SHARED_MEMORY = Path("/dev/shm")


def folder() -> Path | None:
    """This user's folder in shared memory, or None where the system has none."""
    if not SHARED_MEMORY.is_dir() or not hasattr(os, "getuid"):
        return None
    path = SHARED_MEMORY / f"crossreid-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def available() -> int:
    """Bytes of memory that processes could still get (a huge number where the system does not say)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 62


def _unlink_unused(handle: int, path: Path) -> None:
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while somebody else holds it
        path.unlink()


def sweep(where: Path) -> None:
    """Remove what killed processes left; files of the last minute may be about to be held."""
    for path in where.glob("*.u8"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 60:
                handle = os.open(path, os.O_RDONLY)
                _unlink_unused(handle, path)
                os.close(handle)


def hold(store: Store) -> None:
    """Keep the file as long as this process uses the store; the last process to let go removes it."""
    import fcntl

    handle = os.open(store.path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    weakref.finalize(store, _let_go, handle, store.path, os.getpid())


def _let_go(handle: int, path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked worker shares the lock of its parent and must not end it
        _unlink_unused(handle, path)
    os.close(handle)
