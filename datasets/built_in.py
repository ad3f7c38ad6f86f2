"""Built-in domains on disk: found complete, or drawn under a lock into a temporary folder that is then renamed."""

from __future__ import annotations

import difflib
import functools
import json
import logging
import os
import secrets
import shutil
import time
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from crossreid.datasets.files import locked
from crossreid.datasets.pool import available_cores, run
from crossreid.datasets.splits import DatasetError
from crossreid.datasets.synthetic import DOMAINS, GALLERY, QUERY, TRAIN, Job, Sizes, Studio, make_plan

VERSION = 2  # raise it whenever the pictures change
MARKER = "domain.json"
SHARE = 4  # jobs that a worker draws at a time
LIMITS = {  # of what can be drawn; the bounds of DATASETS.SYNTHETIC lie within
    "identities": (1, 5000),
    "test_identities": (1, 4999),
    "cameras": (2, 32),
    "seed": (0, 2**31 - 1),
    "height": (32, 512),
    "width": (16, 512),
}

logger = logging.getLogger(__name__)


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise DatasetError(f"built-in domain: {name} must be a whole number, {low} to {high}, not {value!r}")


def check_domain(domain: str) -> None:
    """Refuse a domain that is not built in.

    Raises:
        DatasetError: it names the nearest one, and all.
    """
    if domain not in DOMAINS:
        near = difflib.get_close_matches(str(domain), DOMAINS, 1, 0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise DatasetError(f"no built-in domain '{domain}'{hint} (there are: {', '.join(DOMAINS)})")


def check(domain: str, sizes: Sizes, workers: int | None = None) -> None:
    """Refuse what cannot be drawn.

    Raises:
        DatasetError: unknown domain, or a value out of range; names what is allowed.
    """
    check_domain(domain)
    for name, (low, high) in LIMITS.items():
        _whole(name, getattr(sizes, name), low, high)
    if workers is not None:
        _whole("workers", workers, 1, 64)


def folder_name(domain: str, sizes: Sizes) -> str:
    """The name of a domain's folder; it holds all parameters, so that no two sets of them share a folder."""
    identities = f"{sizes.identities}+{sizes.test_identities}ids"
    return (
        f"{domain}-v{VERSION}-{identities}-{sizes.cameras}cams-{sizes.height}x{sizes.width}-seed{sizes.seed}"
    )


def _complete(folder: Path, domain: str, sizes: Sizes) -> bool:
    """Whether the folder is there and whole.

    Raises:
        DatasetError: it is there, but was made by someone else or has lost pictures.
    """
    if not folder.exists():
        return False
    advice = "move or delete this folder, or choose another root"
    try:
        found = json.loads((folder / MARKER).read_text())
        counts = {part: int(found["counts"][part]) for part in (TRAIN, QUERY, GALLERY)}
        del found["counts"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise DatasetError(f"{folder} exists, but has no readable {MARKER}: {advice}") from None
    if found != {"version": VERSION, "domain": domain, **asdict(sizes)}:
        raise DatasetError(f"{folder} exists with other parameters in its {MARKER}: {advice}")
    for part, count in counts.items():
        present = sum(1 for _ in (folder / part).glob("*.jpg"))
        if present != count:
            raise DatasetError(f"{folder / part} has {present} images, {MARKER} says {count}: {advice}")
    return True


@functools.lru_cache(1)
def _studio(domain: str, sizes: Sizes) -> tuple[Studio, list[Job]]:
    """A worker sets its cameras up once."""
    return Studio(domain, sizes), make_plan(domain, sizes)


def _draw(domain: str, sizes: Sizes, folder: Path, first: int) -> int:
    """Draw the pictures of ``SHARE`` jobs into a folder that has the three parts; how many they were."""
    studio, jobs = _studio(domain, sizes)
    shots = [pair for job in jobs[first : first + SHARE] for pair in studio.take(job)]
    for shot, data in shots:
        (folder / shot.folder / shot.name).write_bytes(data)
    return len(shots)


def _build(domain: str, sizes: Sizes, folder: Path, workers: int, progress: bool) -> None:
    """Draw into a temporary folder beside the final one and rename it."""
    counts = dict.fromkeys((TRAIN, QUERY, GALLERY), 0)
    jobs = make_plan(domain, sizes)
    for job in jobs:
        for shot in job.shots:
            counts[shot.folder] += 1
    total, start = sum(counts.values()), time.monotonic()
    logger.info("drawing %d images of %s into %s, once", total, domain, folder)
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.partial")
    work = functools.partial(_draw, domain, sizes, draft)
    hidden = None if progress else True  # None: shown on a terminal
    try:
        for part in counts:
            (draft / part).mkdir(parents=True)
        with tqdm(total=total, desc=f"drawing {domain}", unit="image", disable=hidden, leave=False) as bar:
            for count in run(work, range(0, len(jobs), SHARE), workers):
                bar.update(count)
        marker = {"version": VERSION, "domain": domain, **asdict(sizes), "counts": counts}
        (draft / MARKER).write_text(json.dumps(marker, indent=1) + "\n")
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    logger.info("drew %d images in %.1f s", total, time.monotonic() - start)


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
    """Find a built-in domain on disk, or draw it.

    The same parameters give the same bytes, whatever the number of workers. Several processes may call this at
    once: one draws, the others wait.

    Args:
        domain: a key of ``DOMAINS``.
        root: data folder; the domain goes to <root>/synthetic/<domain>-<parameters>.
        identities: of the training part, 1..5000.
        test_identities: other ones, of query and gallery, 1..4999.
        cameras: 2..32.
        seed: 0..2**31-1.
        height: of the pictures in pixels, 32..512.
        width: of the pictures in pixels, 16..512.
        workers: processes, 1..64; None takes the cores there are, 8 at most.
        progress: show a bar on a terminal.

    Returns:
        The folder, in Market-1501 layout.

    Raises:
        DatasetError: unknown domain, a value out of range, or a folder that cannot be used or written.
    """
    sizes = Sizes(identities, test_identities, cameras, seed, height, width)
    check(domain, sizes, workers)
    folder = Path(root).expanduser() / "synthetic" / folder_name(domain, sizes)
    if _complete(folder, domain, sizes):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(".lock")) as held:
            if not _complete(folder, domain, sizes):  # another process may have drawn it meanwhile
                for left in folder.parent.glob(".*.partial") if held else ():  # by killed processes
                    shutil.rmtree(left, ignore_errors=True)
                _build(domain, sizes, folder, workers or min(available_cores(), 8), progress)
    except OSError as error:
        raise DatasetError(
            f"cannot write built-in domain '{domain}' under {folder.parent}: {error}"
        ) from None
    return folder
