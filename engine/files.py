"""Files that a killed run or a full disk leaves whole: written under a temporary name, synchronised, renamed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from crossreid.datasets.files import draft


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a temporary file beside a path, then rename it to the path.

    Raises:
        OSError: a full or read-only disk; the old file is as it was. Errors of ``write`` arrive as they are.
    """
    write_together({path: write})


def write_together(parts: dict[Path, Callable[[BinaryIO], object]]) -> None:
    """The same for several files: none is renamed before all are written.

    Raises:
        OSError: as of ``write_whole``.
    """
    with contextlib.ExitStack() as drafts:
        for path, write in reversed(parts.items()):  # the last draft is renamed first
            path.parent.mkdir(parents=True, exist_ok=True)
            with drafts.enter_context(draft(path)).open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
    for folder in {path.parent for path in parts}:
        _synchronise(folder)


def _synchronise(folder: Path) -> None:
    """Bring a rename to the disk; file systems that cannot are left alone."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_stale(folder: Path) -> None:
    """Remove the temporary files that processes which are no more have left in a folder."""
    for file in folder.glob(".*.tmp"):
        number = file.name.split(".")[-2]
        if number.isdecimal() and not _alive(int(number)):
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return process != os.getpid()  # a number that was given anew
