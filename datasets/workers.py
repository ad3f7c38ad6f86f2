"""Decoding in parallel: worker processes that write into one file and answer through one pipe."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossreid.datasets import decode
from crossreid.datasets.progress import Progress

FEW = 400  # images that one process decodes faster than several processes start


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decode_all(
    paths: Sequence[str], size: tuple[int, int], handle: int | None, name: str, workers: int, progress: bool
) -> tuple[NDArray[np.uint32], dict[int, str]]:
    """Decode all files into an open file (or only try to, where ``handle`` is None).

    Args:
        paths: N image files.
        size: height and width in pixels.
        handle: descriptor of the file for this process.
        name: its name for worker processes.
        workers: how many of them.

    Returns:
        CRC-32 of each image [N], and the rows that do not decode with the reason.

    Raises:
        OSError: the file cannot be written, or a worker ended early.
    """
    items = list(enumerate(paths))
    if workers <= 1 or len(paths) < FEW:
        answers = decode.decode_into(items, handle, *size)
    else:
        answers = _in_processes(items, size, "-" if handle is None else name, workers)
    checksums = np.zeros(len(paths), np.uint32)
    corrupt: dict[int, str] = {}
    bar = Progress(len(paths), "decoding images", progress)
    for row, checksum, problem in answers:
        checksums[row] = checksum
        if problem:
            corrupt[row] = problem
        bar.update()
    return checksums, corrupt


def _in_processes(
    items: list[tuple[int, str]], size: tuple[int, int], name: str, workers: int
) -> Iterator[tuple[int, int, str]]:
    command = [sys.executable, str(Path(decode.__file__)), name, str(size[0]), str(size[1])]
    read, write = os.pipe()
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with tempfile.TemporaryFile() as words:  # a file, since nobody empties a pipe of warnings
            for _ in range(workers):  # all start before the first is given work
                processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=write, stderr=words))
            for worker, process in enumerate(processes):
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError), process.stdin:
                    process.stdin.write(json.dumps(items[worker::workers]).encode())
            os.close(write)
            write = -1
            answered = 0
            with os.fdopen(read, "rb", closefd=False) as answers:
                for line in answers:
                    row, checksum, problem = line.decode(errors="replace").rstrip("\n").split(" ", 2)
                    yield int(row), int(checksum), problem
                    answered += 1
            if answered < len(items):
                words.seek(0)
                told = [line for line in words.read().decode(errors="replace").split("\n") if line.strip()]
                last = told[-1] if told else "it said nothing"  # workers write into each other's lines
                codes = sorted({process.wait() for process in processes} - {0})
                raise OSError(f"a decoding worker ended early (exit code {codes[0] if codes else 0}): {last}")
    finally:
        os.close(read)  # workers that still run end at their next answer
        if write >= 0:
            os.close(write)
        for process in processes:
            process.wait()
