"""Where decoded images are kept: on disk, in shared memory, or nowhere."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from crossreid.datasets import ram
from crossreid.datasets.store import Store, obtain

CACHES = ("auto", "ram", "disk", "off")
SPARE_DISK = 1 << 30  # "auto" leaves this much of a disk free, and half of the memory

logger = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """Where stores lie unless told otherwise: ``~/.cache/crossreid/images``; ``XDG_CACHE_HOME`` is honoured."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "crossreid" / "images"


def find_store(
    paths: Sequence[str],
    size: tuple[int, int],
    cache: str,
    folder: Path,
    label: str,
    *,
    workers: int,
    progress: bool,
) -> tuple[Store | None, str]:
    """The store for a mode of caching, and the mode that it came to: (None, "off") where there is no room.

    What stood in the way is said in one line and is never an error: decoding while training always works.
    """
    modes = {"auto": ("disk", "ram"), "disk": ("disk",), "ram": ("ram",), "off": ()}[cache]
    problems = []
    for mode in modes:
        where = folder if mode == "disk" else ram.folder()
        if where is None:
            problems.append("no shared memory on this system")
            continue

        def room(mode: str = mode, where: Path = where) -> int:
            free = shutil.disk_usage(where).free
            if mode == "ram":
                return min(free, ram.available() // 2)
            return free - (SPARE_DISK if cache == "auto" else 0)

        try:
            if mode == "ram":
                ram.sweep(where)
            store = obtain(paths, size, where, label, workers=workers, progress=progress, room=room)
            if mode == "ram":
                ram.hold(store)
        except OSError as error:
            problems.append(f"{where}: {error.strerror or error}")
            continue
        if problems:
            logger.warning("%s: decoded images are kept in memory, not on disk (%s)", label, problems[0])
        return store, mode
    if problems:
        logger.warning(
            "%s: no image store (%s); images are decoded while training, slower", label, "; ".join(problems)
        )
    return None, "off"
