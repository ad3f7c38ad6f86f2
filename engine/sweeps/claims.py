"""Who runs what: several launchers on one file system never take the same run, and a dead one's run is taken over.

A claim is a file ``NAME.1`` that only one launcher can make (``O_EXCL``); taking over makes ``NAME.2``, again for one
only. No claim is ever removed, so that no two launchers can each believe to have removed the other's.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossreid.datasets.files import draft

STALE = 180.0  # seconds without a sign of life after which a launcher of another machine counts as dead


@dataclass(frozen=True)
class Claim:
    """A run that this launcher holds."""

    file: Path
    number: int

    def beat(self) -> bool:
        """Show that this launcher lives; False if another has taken over, so that the run must be given up."""
        if self._next().exists():
            return False
        with contextlib.suppress(OSError):  # the file system is away for a moment: the next beat tells
            os.utime(self.file)
        return True

    def release(self) -> None:
        """Leave the run, unfinished, to whoever comes next."""
        with draft(self.file) as partial:
            partial.write_text(json.dumps({"released": True}), encoding="utf-8")

    def _next(self) -> Path:
        return self.file.with_name(f"{self.file.name.rpartition('.')[0]}.{self.number + 1}")


class Claims:
    """The claims of a sweep.

    Args:
        folder: is made where it is missing.
        stale: seconds after which a silent launcher of another machine counts as dead.
    """

    def __init__(self, folder: Path, stale: float = STALE) -> None:
        self.folder, self.stale = folder, stale
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, name: str) -> Claim | None:
        """Claim a run, or None where a living launcher holds it."""
        number = self.attempts(name)
        if number and not self._free(self.folder / f"{name}.{number}"):
            return None
        claim = Claim(self.folder / f"{name}.{number + 1}", number + 1)
        try:
            handle = os.open(claim.file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return None
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(_myself()))
        return claim

    def attempts(self, name: str) -> int:
        """How often a run was claimed; the number of its last claim."""
        number = 0
        while (self.folder / f"{name}.{number + 1}").exists():
            number += 1
        return number

    def held(self, name: str) -> bool:
        """Whether a living launcher holds a run."""
        number = self.attempts(name)
        return bool(number) and not self._free(self.folder / f"{name}.{number}")

    def _free(self, file: Path) -> bool:
        """Whether a claim was released, or its launcher is dead."""
        try:
            owner = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            owner = {}  # killed while it was writing, or about to write
        except OSError:
            return False
        if owner.get("released"):
            return True
        if owner.get("place") == _place() and owner.get("place"):
            return _dead(owner)
        return self._age(file) > self.stale

    def _age(self, file: Path) -> float:
        """Seconds since a claim's last sign of life, by the clock of the file system."""
        now = self.folder / f".clock-{os.getpid()}"
        try:
            now.touch()
            return now.stat().st_mtime - file.stat().st_mtime
        except OSError:
            return 0.0
        finally:
            now.unlink(missing_ok=True)


def _place() -> str | None:
    """What tells this machine's processes from those of others, containers included; None where nothing does."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - not a path
    except OSError:
        return None


def _myself() -> dict[str, Any]:
    return {"host": platform.node(), "pid": os.getpid(), "place": _place(), "born": _born(os.getpid())}


def _dead(owner: dict[str, Any]) -> bool:
    """Whether a process of this machine is gone, or its number is another's by now."""
    born = _born(int(owner.get("pid", 0)))
    return born is None or born != owner.get("born")


def _born(pid: int) -> str | None:
    """When a living process of this machine started; None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if fields[0] in "ZX" else fields[19]
