"""Where decoded images are kept: on disk, in shared memory, or nowhere."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from crossreid.datasets.decode import Size
from crossreid.datasets.files import fcntl
from crossreid.datasets.splits import DatasetError
from crossreid.datasets.store import Store, content_keys, obtain

CACHES = ("auto", "ram", "disk", "off")
SPARE_DISK = 1 << 30  # "auto" leaves this much of a disk free, and half of the memory
SHARED_MEMORY = Path("/dev/shm")

logger = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """Where stores lie unless told otherwise: ``~/.cache/crossreid/images``; ``XDG_CACHE_HOME`` is honoured."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "crossreid" / "images"


def shared_folder() -> Path | None:
    """This user's folder in shared memory, or None where the system has none."""
    if not SHARED_MEMORY.is_dir():
        return None
    path = SHARED_MEMORY / f"crossreid-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    return path if path.lstat().st_uid == os.getuid() and not path.is_symlink() else None


def available_memory() -> int:
    """Bytes of memory that processes could still get (a huge number where the system does not say)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 62


def find_store(
    paths: Sequence[str],
    size: Size,
    cache: str,
    folder: Path,
    label: str,
    *,
    workers: int,
    progress: bool,
    skip: bool,
) -> tuple[Store | None, str]:
    """The store for a mode of caching, and the mode that it came to: (None, "off") where there is no room.

    What stood in the way is one line of the log and never an error: decoding while training always works.

    Raises:
        DatasetError: an image file is gone, and ``skip`` is not set.
    """
    modes = {"auto": ("disk", "ram"), "disk": ("disk",), "ram": ("ram",), "off": ()}[cache]
    if not modes or not hasattr(os, "preadv"):  # Windows
        return None, "off"
    names, key, missing = content_keys(paths, size)
    if missing and not skip:
        row = min(missing)
        raise DatasetError(
            f"{paths[row]}: cannot be read ({missing[row]}); was it moved since it was listed? Restore it, or set "
            "DATASETS.ON_CORRUPT skip"
        )
    file = f"{label.replace('/', '-').replace(':', '-')}-{size[0]}x{size[1]}-{names}.u8"
    problems = []
    for mode in modes:
        where = folder if mode == "disk" else shared_folder()
        if where is None:
            problems.append("no shared memory on this system")
            continue

        def room(mode: str = mode, where: Path = where) -> int:
            free = shutil.disk_usage(where).free
            if mode == "ram":
                return min(free, available_memory() // 2)
            return free - (SPARE_DISK if cache == "auto" else 0)

        try:
            if mode == "ram":
                sweep_unused(where)
            store = obtain(paths, size, key, where / file, workers=workers, progress=progress, room=room)
            if mode == "ram":
                _hold(store)
        except OSError as error:
            problems.append(f"{where}: {error.strerror or error}")
            continue
        if problems:
            logger.warning("%s: decoded images are kept in memory, not on disk (%s)", label, problems[0])
        return store, mode
    logger.warning(
        "%s: no image store (%s); images are decoded while training, slower", label, "; ".join(problems)
    )
    return None, "off"


def sweep_unused(folder: Path) -> None:
    """Remove stores that killed processes left in memory; one of the last minute may be about to be held."""
    for path in folder.glob("*.u8"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 60:
                _let_go(os.open(path, os.O_RDONLY), path)


def _hold(store: Store) -> None:
    """Keep a store in memory as long as this process uses it; the last process to let go removes it."""
    fcntl.flock(store.handle, fcntl.LOCK_SH)
    store.on_close(_let_go)


def _let_go(handle: int, path: Path) -> None:
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while somebody else holds it
        if os.path.samestat(os.fstat(handle), path.stat()):  # not one that was built anew under its name
            path.unlink()
    os.close(handle)
