"""Draws a domain to disk: several processes, a temporary folder, a lock; or finds it there, complete."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

from .domains import DOMAINS
from .plan import GALLERY, QUERY, TRAIN, Sizes, make_plan
from .studio import Studio

VERSION = 1  # raise it whenever the pictures change
MARKER = "domain.json"
_BATCH = 25  # pictures between two signs of life of a worker
# Workers import this package by its folder, as `synthetic`: past datasets/__init__.py, hence without torch, and without
# running the caller's main script again.
_WORKER = (
    "import sys; sys.path.insert(0, sys.argv[1]); import synthetic.writer; sys.path.pop(0); "
    "synthetic.writer.work(sys.argv[2])"
)


class SyntheticError(ValueError):
    """A domain that cannot be drawn as asked."""


def check(domain: str, sizes: Sizes, workers: int | None) -> int:
    """Refuse what cannot be drawn; the number of workers."""
    if domain not in DOMAINS:
        near = difflib.get_close_matches(str(domain), DOMAINS, 1, 0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise SyntheticError(f"no embedded domain '{domain}'{hint} (there are: {', '.join(DOMAINS)})")
    limits = {
        "identities": (1, 5000), "test_identities": (1, 4999), "cameras": (2, 32), "seed": (0, 2**31 - 1),
        "height": (32, 512), "width": (16, 512),
    }  # fmt: skip
    for name, (low, high) in limits.items():
        value = getattr(sizes, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise SyntheticError(
                f"{name} of an embedded domain must be a whole number from {low} to {high}, not {value!r}"
            )
    if workers is None:
        return max(
            1,
            min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8),
        )
    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= 64:
        raise SyntheticError(f"workers must be a whole number from 1 to 64, not {workers!r}")
    return workers


def folder_name(domain: str, sizes: Sizes) -> str:
    """The name of a domain's folder; it holds all parameters, so that other parameters never meet the same folder."""
    s = sizes
    return f"{domain}-v{VERSION}-{s.identities}+{s.test_identities}ids-{s.cameras}cams-{s.height}x{s.width}-seed{s.seed}"


def _described(domain: str, sizes: Sizes) -> dict[str, object]:
    return {"version": VERSION, "domain": domain, **asdict(sizes)}


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
    if found != _described(domain, sizes):
        raise SyntheticError(f"{folder} exists with other parameters in its {MARKER}: {advice}")
    for part, count in counts.items():
        present = sum(1 for _ in (folder / part).glob("*.jpg"))
        if present != count:
            raise SyntheticError(
                f"{folder / part} has {present} pictures, its {MARKER} says {count}: {advice}"
            )
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
                except OSError:  # gives up after ten seconds
                    continue
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Bar:
    """A progress bar on a terminal; elsewhere one line at the end."""

    def __init__(self, label: str, total: int, shown: bool) -> None:
        self.label, self.total, self.shown, self.done = label, total, shown, 0
        self.start, self.live = time.perf_counter(), shown and sys.stderr.isatty()

    def add(self, count: int) -> None:
        self.done += count
        last = self.done >= self.total
        if not (self.live or (self.shown and last)):
            return
        rate = self.done / max(time.perf_counter() - self.start, 1e-6)
        full = 24 * self.done // max(self.total, 1)
        bar = f"[{'#' * full}{'.' * (24 - full)}] " if self.live else ""
        head = "\r" if self.live else ""
        print(  # noqa: T201
            f"{head}drawing {self.label} {bar}{self.done}/{self.total} images, {rate:.0f} images/s",
            end="\n" if last else "", file=sys.stderr, flush=True,
        )  # fmt: skip


def _draw(domain: str, sizes: Sizes, folder: Path, share: int, shares: int) -> Iterator[int]:
    """Draw every `shares`-th job from `share` on; yields how many pictures were written since the last time."""
    studio, fresh = Studio(domain, sizes), 0
    for job in make_plan(domain, sizes)[share::shares]:
        for shot, data in studio.take(job):
            (folder / shot.folder / shot.name).write_bytes(data)
            fresh += 1
        if fresh >= _BATCH:
            yield fresh
            fresh = 0
    yield fresh


def work(task: str) -> None:
    """Main function of a worker process: draws its share and writes counts to standard output."""
    order = json.loads(task)
    sizes = Sizes(**order["sizes"])
    for count in _draw(order["domain"], sizes, Path(order["folder"]), order["share"], order["shares"]):
        sys.stdout.write(f"{count}\n")
        sys.stdout.flush()  # fails when the parent is gone, which ends the worker


def _listen(stream: IO[str], bar: _Bar, lock: threading.Lock) -> None:
    for line in stream:
        with lock:
            bar.add(int(line))


def _draw_all(domain: str, sizes: Sizes, folder: Path, workers: int, bar: _Bar) -> None:
    if workers == 1:
        for count in _draw(domain, sizes, folder, 0, 1):
            bar.add(count)
        return
    processes: list[subprocess.Popen[str]] = []
    threads: list[threading.Thread] = []
    lock = threading.Lock()
    try:
        for share in range(workers):
            order = {
                "domain": domain,
                "sizes": asdict(sizes),
                "folder": str(folder),
                "share": share,
                "shares": workers,
            }
            command = [sys.executable, "-c", _WORKER, str(Path(__file__).parent.parent), json.dumps(order)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environment
            )
            processes.append(process)
            assert process.stdout is not None
            threads.append(threading.Thread(target=_listen, args=(process.stdout, bar, lock), daemon=True))
            threads[-1].start()
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    for thread in threads:
        thread.join()
    if any(codes):
        raise SyntheticError(
            f"a process that draws '{domain}' ended with status {max(codes, key=abs)}; its message is above"
        )


def _build(domain: str, sizes: Sizes, folder: Path, workers: int, progress: bool) -> None:
    """Draw into a temporary folder beside the final one and rename it; the caller holds the lock."""
    for stale in folder.parent.glob(f".{folder.name}.*.partial"):  # of killed runs: the lock is ours
        shutil.rmtree(stale, ignore_errors=True)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    counts = dict.fromkeys((TRAIN, QUERY, GALLERY), 0)
    for job in make_plan(domain, sizes):
        for shot in job.shots:
            counts[shot.folder] += 1
    try:
        for part in counts:
            (draft / part).mkdir(parents=True)
        bar = _Bar(domain, sum(counts.values()), progress)
        _draw_all(domain, sizes, draft, workers, bar)
        marker = {**_described(domain, sizes), "counts": counts}
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

    The same parameters give the same bytes, whatever the number of workers. Several processes may call this at once:
    one draws, the others wait.

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
    workers = check(domain, sizes, workers)
    folder = Path(root).expanduser() / "synthetic" / folder_name(domain, sizes)
    if _complete(folder, domain, sizes):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f".{folder.name}.lock")):
            if not _complete(folder, domain, sizes):  # another process may have drawn it meanwhile
                _build(domain, sizes, folder, workers, progress)
    except OSError as error:
        raise SyntheticError(
            f"cannot write the embedded domain '{domain}' to {folder.parent}: {error}"
        ) from None
    return folder
