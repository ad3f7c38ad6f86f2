"""A run killed anywhere and resumed ends in the bytes of an unbroken one: at every rename, in mid-write, at random."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossreid.engine import recorder
from crossreid.modeling.weights import read_checkpoint
from tests.campaign.effort import INPUTS
from tests.tiny import differences, overrides, train

RUN = ["CAMERA_AWARE.SOURCE_EPOCHS", "1", "LOG.PERIOD", "2", "CHECKPOINT.N_SAVED", "2", "SOLVER.EPOCHS", "3"]
FILES = ("last.pt", "best.pt", "epoch-00002.pt", "epoch-00003.pt")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_rename(name: str, count: int, after: bool) -> Callable[[], None]:
    """Die before or after a file's ``count``-th rename."""

    def arm() -> None:
        rename, seen = Path.replace, [0]

        def replace(path: Path, target: Path) -> Path:
            seen[0] += Path(target).name == name
            if Path(target).name == name and seen[0] == count and not after:
                die()
            done = rename(path, target)
            if Path(target).name == name and seen[0] == count:
                die()
            return done

        Path.replace = replace  # type: ignore[assignment, method-assign]

    return arm


def in_a_line(count: int) -> Callable[[], None]:
    """Die with half a line of metrics.jsonl written."""

    def arm() -> None:
        add, seen = recorder.Lines.add, [0]

        def half(lines: recorder.Lines, line: str) -> None:
            seen[0] += 1
            if seen[0] == count:
                lines._file.write(line[: len(line) // 2].encode())
                die()
            add(lines, line)

        recorder.Lines.add = half  # type: ignore[method-assign]

    return arm


def in_a_write(count: int) -> Callable[[], None]:
    """Die with half a checkpoint in the temporary file."""

    def arm() -> None:
        synchronise, seen = os.fsync, [0]

        def fsync(handle: int) -> None:
            seen[0] += 1
            if seen[0] == count:
                os.ftruncate(handle, 5000)
                die()
            synchronise(handle)

        os.fsync = fsync

    return arm


def run(arguments: list[str], log: Path, arm: Callable[[], None] = lambda: None, after: float = 0.0) -> int:
    """Train in a child, killed after some seconds if they are given; minus the signal, or 0."""
    child = os.fork()
    if not child:
        code = 1
        try:
            handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(handle, 2)
            arm()
            train("configs/demo.yml", arguments)
            code = 0
        finally:
            os._exit(code)
    if after:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def content(out: Path, name: str) -> dict[str, Any]:
    found = read_checkpoint(out / "checkpoints" / "demo" / name)
    found.pop("config")
    return found


def rows(out: Path) -> list[dict[str, Any]]:
    lines = (out / "logs" / "demo" / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if "per_second" not in k} for line in lines]


@pytest.fixture(scope="module")
def unbroken(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    assert run(overrides(domains, out, *RUN), out / "told") == 0, (out / "told").read_text()
    return out


def assert_same(out: Path, unbroken: Path) -> None:
    for name in FILES:
        assert differences(content(out, name), content(unbroken, name)) == []
    assert rows(out) == rows(unbroken)
    left = [file.name for folder in ("checkpoints", "logs") for file in (out / folder / "demo").glob(".*")]
    assert left == []


PLACES = {
    "before the first best.pt": at_rename("best.pt", 1, False),
    "between best.pt and last.pt": at_rename("best.pt", 1, True),
    "before the second last.pt": at_rename("last.pt", 2, False),
    "after the second last.pt": at_rename("last.pt", 2, True),
    "between a numbered one and last.pt": at_rename("epoch-00003.pt", 1, True),
    "in a checkpoint": in_a_write(11),
    "in a line": in_a_line(4),
}


SHORT = ("between best.pt and last.pt", "in a checkpoint", "in a line")


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES if INPUTS else SHORT)
def test_killed_at(place: str, domains: Path, tmp_path: Path, unbroken: Path) -> None:
    arguments = [*overrides(domains, tmp_path, *RUN), "RESUME", "auto"]
    assert run(arguments, tmp_path / "told", PLACES[place]) == -signal.SIGKILL
    assert run(arguments, tmp_path / "told") == 0, (tmp_path / "told").read_text()
    assert_same(tmp_path, unbroken)


@pytest.mark.slow
@pytest.mark.skipif(not INPUTS, reason="in the long campaign alone")
@pytest.mark.parametrize("number", range(30))
def test_killed_at_random(number: int, domains: Path, tmp_path: Path, unbroken: Path) -> None:
    arguments = [*overrides(domains, tmp_path, *RUN), "RESUME", "auto"]
    draw = random.Random(number)
    for _ in range(2):
        run(arguments, tmp_path / "told", after=draw.uniform(0.05, 4))
    assert run(arguments, tmp_path / "told") == 0, (tmp_path / "told").read_text()
    assert_same(tmp_path, unbroken)
