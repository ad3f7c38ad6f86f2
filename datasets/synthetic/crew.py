"""Draws the pictures of one domain with several processes.

Each worker takes its share of the plan and writes files; a picture depends on the seed and its own keys alone, so that
shares do not matter. Workers import this package by its folder, as `synthetic`: past datasets/__init__.py, hence
without torch, and without running the caller's main script again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

from .plan import Sizes, make_plan
from .studio import Studio

_BATCH = 25  # pictures between two signs of life of a worker
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); import synthetic.crew; sys.path.pop(0); "
    "synthetic.crew.work(sys.argv[2])"
)


class Bar:
    """A progress bar on a terminal; elsewhere one line at the end."""

    def __init__(self, label: str, total: int, shown: bool) -> None:
        self.label, self.total, self.shown, self.done = label, total, shown, 0
        self.start, self.live = time.perf_counter(), shown and sys.stderr.isatty()

    def add(self, count: int) -> None:
        self.done += count
        last = self.done >= self.total
        if not self.live and not (self.shown and last):
            return
        rate = self.done / max(time.perf_counter() - self.start, 1e-6)
        full = 24 * self.done // max(self.total, 1)
        bar = f"\r[{'#' * full}{'.' * (24 - full)}] " if self.live else ""
        text = f"{bar}drawing {self.label}: {self.done}/{self.total} images, {rate:.0f} images/s"
        sys.stderr.write(text + ("\n" if last else ""))
        sys.stderr.flush()


def _draw(domain: str, sizes: Sizes, folder: Path, share: int, shares: int) -> Iterator[int]:
    """Draw every `shares`-th job from `share` on; yields how many pictures were written since the last yield."""
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
    sizes, folder = Sizes(**order["sizes"]), Path(order["folder"])
    for count in _draw(order["domain"], sizes, folder, order["share"], order["shares"]):
        sys.stdout.write(f"{count}\n")
        sys.stdout.flush()  # fails when the parent is gone, which ends the worker


def _start(order: dict[str, object]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _BOOT, str(Path(__file__).resolve().parent.parent), json.dumps(order)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment
    )


def draw_all(domain: str, sizes: Sizes, folder: Path, workers: int, report: Callable[[int], None]) -> int:
    """Draw all pictures of a domain into a folder that has the three parts.

    Args:
        domain: a key of `DOMAINS`.
        sizes: its sizes and seed.
        folder: where to.
        workers: processes; 1 draws in this one.
        report: called with numbers of new pictures.

    Returns:
        0, or the first status other than 0 that a worker ended with.
    """
    if workers == 1:
        for count in _draw(domain, sizes, folder, 0, 1):
            report(count)
        return 0
    order = {"domain": domain, "sizes": asdict(sizes), "folder": str(folder.resolve()), "shares": workers}
    processes: list[subprocess.Popen[str]] = []
    listeners: list[threading.Thread] = []
    lock = threading.Lock()

    def listen(stream: IO[str]) -> None:
        for line in stream:
            with lock:
                report(int(line))

    try:
        for share in range(workers):
            processes.append(_start({**order, "share": share}))
            listeners.append(threading.Thread(target=listen, args=(processes[-1].stdout,), daemon=True))
            listeners[-1].start()
        statuses = [process.wait() for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    for listener in listeners:
        listener.join()
    return next((status for status in statuses if status), 0)
