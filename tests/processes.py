"""Processes that start at once: they are forked from one that has imported everything and computed nothing.

To start Python and import PyTorch takes seconds, many times over in a run of the tests.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import subprocess
import tempfile
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


class Command:
    """``python -m crossreid WORDS`` in a process of its own, for tests of what happens after its start.

    It is used as a ``subprocess.Popen`` with its output in a pipe. Ranks that it starts are forked, too.

    Args:
        words: of the command line, ``train`` first.
        variables: of its environment.
    """

    def __init__(self, words: list[str], **variables: str) -> None:
        handle, name = tempfile.mkstemp(prefix="told-")
        os.close(handle)
        self._told = Path(name)
        self._process = CONTEXT.Process(target=_main, args=(words, self._told, {**os.environ, **variables}))
        self._process.start()
        self.pid = self._process.pid

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
            raise subprocess.TimeoutExpired("crossreid", timeout)
        told = self._told.read_text()
        self._told.unlink()
        return told, None


def _main(words: list[str], told: Path, environment: dict[str, str]) -> None:
    import torch
    from torch.distributed.launcher import api

    from crossreid.engine.commands import main

    os.environ.clear()
    os.environ.update(environment)
    out = os.open(told, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(out, stream)
    torch.set_num_threads(1)
    api.LaunchConfig = functools.partial(api.LaunchConfig, start_method="fork")  # type: ignore[misc, assignment]
    main(words)
