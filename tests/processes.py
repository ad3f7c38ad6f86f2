"""Processes that start at once: they are forked from one that has imported everything and computed nothing.

To start Python and import PyTorch takes seconds, many times over in a run of the tests.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "pytest",
        "crossreid.engine.commands.sweep",
        "crossreid.engine.commands.train",
        "torch.distributed.launcher.api",
        "tests.tiny",
    ]
)


class Forked:
    """A call in a process of its own; it is used as a ``subprocess.Popen`` with its output in a pipe.

    Args:
        function: of the top of a module; what it raises, ``SystemExit`` with its code too, ends the process.
        variables: of its environment.
    """

    def __init__(self, function: Callable[..., object], *args: object, **variables: str) -> None:
        handle, name = tempfile.mkstemp(prefix="told-")
        os.close(handle)
        self._told = Path(name)
        environment = {**os.environ, **variables}
        self._process = CONTEXT.Process(target=_run, args=(function, args, self._told, environment))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid or 0, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 120) -> tuple[str, None]:
        """What it has told, after it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked process", timeout)
        told = self._told.read_text()
        self._told.unlink()
        return told, None


class Command(Forked):
    """``python -m crossreid WORDS``, for tests of what happens after its start; its ranks are forked, too."""

    def __init__(self, words: list[str], **variables: str) -> None:
        super().__init__(_command, words, **variables)


class Script(Forked):
    """``python FILE WORDS``, for a file that needs nothing of a fresh Python but its own state."""

    def __init__(self, file: Path, words: list[str]) -> None:
        super().__init__(_script, str(file), words)


def _run(
    function: Callable[..., object], args: tuple[object, ...], told: Path, environment: dict[str, str]
) -> None:
    import torch

    os.environ.clear()
    os.environ.update(environment)
    out = os.open(told, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(out, stream)
    torch.set_num_threads(1)
    function(*args)


def _command(words: list[str]) -> None:
    from torch.distributed.launcher import api

    from crossreid.engine.commands import main

    api.LaunchConfig = functools.partial(api.LaunchConfig, start_method="fork")  # type: ignore[misc, assignment]
    main(words)


def _script(file: str, words: list[str]) -> None:
    sys.argv = [file, *words]
    runpy.run_path(file, run_name="__main__")
