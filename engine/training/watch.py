"""The processes of one machine watch each other: one line says which rank died, stopped or failed."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

import torch.distributed as dist

from crossreid.datasets.pool import end_with
from crossreid.engine.errors import USER_ERRORS

POLL = 0.2  # seconds between two looks
LINGER = 1.5  # seconds that a failed rank stays, so that a rank that died before it is found first
NAMED = 10.0  # seconds after which a stopped rank is named
ENDED = 60.0  # seconds after which it is ended, so that the run can be resumed
CONTINUE = "continue with RESUME auto"


def follow(folder: Path, parent: int) -> None:
    """In a rank: note its process for the parent, and end when the parent was killed, leaving no file behind.

    A rank without its parent must not go on writing checkpoints beside a resumed run.

    Args:
        parent: its process; named by itself, since it may be gone before this rank asks.
    """
    if os.getppid() != parent:
        os._exit(1)
    (folder / f"{os.environ['RANK']}.pid").write_text(str(os.getpid()), encoding="ascii")
    end_with(parent, functools.partial(tidy, folder, parent))


def tidy(folder: Path, parent: int) -> None:
    """In a rank that ends: remove the run's temporary folder if the parent, whose task that is, was killed."""
    if os.getppid() != parent:
        shutil.rmtree(folder, ignore_errors=True)


def report(folder: Path, error: Exception) -> int:
    """In a rank: leave the parent word of an error; the exit code."""
    file = folder / os.environ["RANK"]
    if isinstance(error, USER_ERRORS):
        file.with_suffix(".error").write_text(str(error), encoding="utf-8", errors="replace")
        return 2
    kind = ".lost" if _lost(error) else ".fault"
    text = "".join(traceback.format_exception(error))
    file.with_suffix(kind).write_text(text, encoding="utf-8", errors="replace")
    time.sleep(LINGER)
    return 1


def _lost(error: Exception) -> bool:
    """Whether an error says that another process is gone, which has its own reason."""
    words = str(error).lower()
    return isinstance(error, (dist.DistError, RuntimeError)) and any(
        sign in words
        for sign in ("connection closed", "connection reset", "broken pipe", "timed out waiting")
    )


class Watch(threading.Thread):
    """In the parent: names a rank that is stopped (SIGSTOP), and ends it if it stays so.

    Args:
        folder: where the ranks note their processes.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.ended = folder, set[int]()
        self._stopped: dict[int, float] = {}  # rank -> seconds that it was seen stopped
        self._done = threading.Event()

    def __enter__(self) -> Watch:
        if hasattr(os, "waitid"):
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def run(self) -> None:
        while not self._done.wait(POLL):
            for file in self.folder.glob("*.pid"):
                try:
                    self._look(int(file.stem), int(file.read_text(encoding="ascii")))
                except (OSError, ValueError):  # just written, or the rank has ended
                    continue

    def _look(self, rank: int, process: int) -> None:
        options = (
            os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        )  # reads the state, takes nothing from torch's own wait
        if os.waitid(os.P_PID, process, options) is None:
            self._stopped.pop(rank, None)
            return
        before = self._stopped.get(rank, 0.0)
        now = self._stopped[rank] = before + POLL
        if before < NAMED <= now:
            tell(
                f"rank {rank} (process {process}) is stopped and the others wait for it: kill -CONT {process} lets it "
                f"go on; it is ended after {ENDED:.0f} s"
            )
        if now >= ENDED:
            self.ended.add(rank)
            os.kill(process, signal.SIGKILL)


def tell(message: str) -> None:
    """One line on the error output."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201


def explain(folder: Path, codes: Mapping[int, int], ended: set[int]) -> tuple[str, int]:
    """What ended a run, and the exit code; of a fault the traceback of the rank that had it.

    Args:
        codes: exit codes of the ranks that failed first; a negative one is a signal's number.
        ended: ranks that were stopped for too long.
    """
    errors = {file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.error"))}
    if errors:
        return f"error: {'; '.join(sorted(errors))}", 2
    for code in (130, 143):
        if code in codes.values():
            return "", code
    for rank, code in sorted(codes.items(), key=lambda item: item[1]):
        if rank in ended:
            return (
                f"error: rank {rank} was stopped for {ENDED:.0f} s and ended; {CONTINUE}",
                128 + signal.SIGKILL,
            )
        if code < 0:
            memory = " (out of memory?)" if code == -signal.SIGKILL else ""
            return f"error: rank {rank} was killed by signal {-code}{memory}; {CONTINUE}", 128 - code
    faults = sorted(folder.glob("*.fault"), key=lambda file: int(file.stem))
    if faults:
        return faults[0].read_text(encoding="utf-8") + f"(of rank {faults[0].stem})", 1
    rank, code = next(iter(codes.items()))
    if (folder / f"{rank}.lost").is_file():
        return f"error: rank {rank} lost another process, see the other machines' messages; {CONTINUE}", 1
    return f"error: rank {rank} ended with exit code {code} and said nothing; {CONTINUE}", code or 1
