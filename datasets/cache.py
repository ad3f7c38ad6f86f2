"""Where decoded images are kept: on disk, in shared memory, or nowhere."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import shutil
import time
from pathlib import Path

from crossreid.datasets.splits import DatasetError
from crossreid.datasets.store import ImageFiles, Store, obtain, remove_unused

CACHES = ("auto", "ram", "disk", "off")
SPARE_DISK = 1 << 30  # "auto" leaves this much of a disk free, and half of the memory
SHARED_MEMORY = Path("/dev/shm")

logger = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """Where stores lie unless told otherwise: ``~/.cache/crossreid/images``; ``XDG_CACHE_HOME`` is honoured."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "crossreid" / "images"


def shared_folder() -> Path:
    """This user's folder in shared memory.

    Raises:
        OSError: the system has none, or the folder is another user's.
    """
    path = SHARED_MEMORY / f"crossreid-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    if path.lstat().st_uid != os.getuid():
        raise OSError(f"{path} is another user's")
    return path


def available_memory() -> int:
    """Bytes of memory that processes could still get (a huge number where the system does not say)."""
    found = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found[1]) * 1024 if found else 1 << 62


def find_store(
    files: ImageFiles, cache: str, folder: Path, label: str, *, skip: bool
) -> tuple[Store | None, str]:
    """The store for a mode of caching, and the mode that it came to: (None, "off") where there is no room.

    What stood in the way is one line of the log and never an error: decoding while training always works.

    Raises:
        DatasetError: an image file is gone, and ``skip`` is not set.
    """
    modes = {"auto": ("disk", "ram"), "disk": ("disk",), "ram": ("ram",), "off": ()}[cache]
    if not modes or not hasattr(os, "preadv"):  # Windows
        return None, "off"
    names, key, missing = files.keys()
    if missing and not skip:
        row = min(missing)
        raise DatasetError(
            f"{files.paths[row]}: cannot be read ({missing[row]}); was it moved since it was listed? Restore it, "
            "or set DATASETS.ON_CORRUPT skip"
        )
    name = f"{label.replace('/', '-').replace(':', '-')}-{files.size[0]}x{files.size[1]}-{names}.u8"
    problems = []
    for mode in modes:
        where, temporary = (SHARED_MEMORY, True) if mode == "ram" else (folder, False)
        try:
            if temporary:
                where = shared_folder()
                sweep_unused(where)
            where.mkdir(parents=True, exist_ok=True)
            room = functools.partial(_room, where, temporary, SPARE_DISK if cache == "auto" else 0)
            store = obtain(where / name, files, key, temporary=temporary, room=room)
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


def _room(folder: Path, in_memory: bool, spare: int) -> int:
    """Bytes that a new store may take."""
    free = shutil.disk_usage(folder).free
    return min(free, available_memory() // 2) if in_memory else free - spare


def sweep_unused(folder: Path) -> None:
    """Remove stores that killed processes left in memory; one of the last minute may be about to be held."""
    for path in folder.glob("*.u8"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            if time.time() - path.stat().st_mtime > 60:
                remove_unused(file.fileno(), path)
