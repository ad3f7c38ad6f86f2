"""Finds a domain on disk, complete, or draws it there: under a lock, into a temporary folder that is then renamed."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from .crew import Bar, draw_all
from .domains import DOMAINS
from .plan import GALLERY, QUERY, TRAIN, Sizes, make_plan

VERSION = 2  # raise it whenever the pictures change
MARKER = "domain.json"
_LIMITS = {
    "identities": (1, 5000),
    "test_identities": (1, 4999),
    "cameras": (2, 32),
    "seed": (0, 2**31 - 1),
    "height": (32, 512),
    "width": (16, 512),
}


class SyntheticError(ValueError):
    """A domain that cannot be drawn as asked."""


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise SyntheticError(
            f"embedded domain: {name} must be a whole number, {low} to {high}, not {value!r}"
        )


def check(domain: str, sizes: Sizes, workers: int | None = None) -> None:
    """Refuse what cannot be drawn.

    Raises:
        SyntheticError: unknown domain, or a value out of range; names what is allowed.
    """
    if domain not in DOMAINS:
        near = difflib.get_close_matches(str(domain), DOMAINS, 1, 0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise SyntheticError(f"no embedded domain '{domain}'{hint} (there are: {', '.join(DOMAINS)})")
    for name, (low, high) in _LIMITS.items():
        _whole(name, getattr(sizes, name), low, high)
    if workers is not None:
        _whole("workers", workers, 1, 64)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def folder_name(domain: str, sizes: Sizes) -> str:
    """The name of a domain's folder; it holds all parameters, so that no two sets of them share a folder."""
    identities = f"{sizes.identities}+{sizes.test_identities}ids"
    return (
        f"{domain}-v{VERSION}-{identities}-{sizes.cameras}cams-{sizes.height}x{sizes.width}-seed{sizes.seed}"
    )


def _complete(folder: Path, domain: str, sizes: Sizes) -> bool:
    """Whether the folder is there and whole.

    Raises:
        SyntheticError: it is there, but was made by someone else or has lost pictures.
    """
    if not folder.exists():
        return False
    advice = "move or delete this folder, or choose another root"
    try:
        found = json.loads((folder / MARKER).read_text())
        counts = dict(found.pop("counts"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise SyntheticError(f"{folder} exists, but has no readable {MARKER}: {advice}") from None
    if found != {"version": VERSION, "domain": domain, **asdict(sizes)}:
        raise SyntheticError(f"{folder} exists with other parameters in its {MARKER}: {advice}")
    for part, count in counts.items():
        present = sum(1 for _ in (folder / part).glob("*.jpg"))
        if present != count:
            raise SyntheticError(f"{folder / part} has {present} images, {MARKER} says {count}: {advice}")
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; the system frees it when the process ends, however it ends."""
    with path.open("a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            while True:
                try:
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
                except OSError:  # LK_LOCK gives up after ten seconds
                    continue
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(domain: str, sizes: Sizes, folder: Path, workers: int, progress: bool) -> None:
    """Draw into a temporary folder beside the final one and rename it; the caller holds the lock."""
    for stale in folder.parent.glob(f".{folder.name}.*.partial"):  # left by killed runs: the lock is ours
        shutil.rmtree(stale, ignore_errors=True)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    counts = dict.fromkeys((TRAIN, QUERY, GALLERY), 0)
    for job in make_plan(domain, sizes):
        for shot in job.shots:
            counts[shot.folder] += 1
    bar = Bar(domain, sum(counts.values()), progress)
    try:
        for part in counts:
            (draft / part).mkdir(parents=True)
        status = draw_all(domain, sizes, draft, workers, bar.add)
        if status:
            raise SyntheticError(
                f"a process that drew '{domain}' ended with status {status}; see its message above"
            )
        marker = {"version": VERSION, "domain": domain, **asdict(sizes), "counts": counts}
        (draft / MARKER).write_text(json.dumps(marker, indent=1) + "\n")
        draft.rename(folder)
    finally:
        if draft.exists():
            shutil.rmtree(draft, ignore_errors=True)


def ensure(
    domain: str,
    root: str | os.PathLike[str],
    *,
    identities: int = 200,
    test_identities: int = 100,
    cameras: int = 6,
    seed: int = 0,
    height: int = 128,
    width: int = 64,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Find an embedded domain on disk, or draw it.

    The same parameters give the same bytes, whatever the number of workers. Several processes may call this at
    once: one draws, the others wait.

    Args:
        domain: a key of `DOMAINS`.
        root: data folder; the domain goes to <root>/synthetic/<domain>-<parameters>.
        identities: of the training part, 1..5000.
        test_identities: other ones, of query and gallery, 1..4999.
        cameras: 2..32.
        seed: 0..2**31-1.
        height: of the pictures in pixels, 32..512.
        width: of the pictures in pixels, 16..512.
        workers: processes, 1..64; None takes the cores there are, 8 at most.
        progress: show a bar on a terminal, or one line at the end elsewhere, on standard error.

    Returns:
        The folder, in Market-1501 layout.

    Raises:
        SyntheticError: unknown domain, a value out of range, or a folder that cannot be used or written.
    """
    sizes = Sizes(identities, test_identities, cameras, seed, height, width)
    check(domain, sizes, workers)
    folder = Path(root).expanduser() / "synthetic" / folder_name(domain, sizes)
    if _complete(folder, domain, sizes):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f".{folder.name}.lock")):
            if not _complete(folder, domain, sizes):  # another process may have drawn it meanwhile
                _build(domain, sizes, folder, workers or min(_cores(), 8), progress)
    except OSError as error:
        raise SyntheticError(
            f"cannot write embedded domain '{domain}' under {folder.parent}: {error}"
        ) from None
    return folder
