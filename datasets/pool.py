"""Work spread over processes that are started afresh: no lock, thread or CUDA context of this one goes with them."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Process(SpawnProcess):
    @staticmethod
    def _Popen(process: Any) -> Any:
        """Start without the caller's main script, which every worker would run again."""
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            return SpawnProcess._Popen(process)
        finally:
            sys.modules["__main__"] = main


class _Context(SpawnContext):
    Process = _Process


def _begin(parent: int) -> None:
    """In a worker: leave Ctrl-C to the parent, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)


def end_with(parent: int, tidy: Callable[[], object] = lambda: None) -> None:
    """In a child: end when its parent is gone, after ``tidy``.

    Args:
        parent: its process; named by itself, since it may be gone before the child asks.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        tidy()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run(function: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[R]:
    """Results of a function for each task, in order.

    Args:
        function: of a module that imports without torch, so that workers start at once; travels by pickle.
        tasks: its arguments.
        workers: processes; 1 does the work in this one.

    Raises:
        OSError: a worker was killed. Errors of ``function`` arrive as they are.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        yield from map(function, tasks)
        return
    pool = ProcessPoolExecutor(workers, _Context(), _begin, (os.getpid(),))
    try:
        yield from pool.map(function, tasks)
    except BrokenProcessPool as error:
        raise OSError("a worker process was killed (out of memory?)") from error
    finally:
        pool.shutdown(cancel_futures=True)
