"""Real sweeps of tiny runs: shared by two launchers at once, killed at random moments and started again."""

from __future__ import annotations

import csv
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.processes import Command
from tests.tiny import overrides

pytestmark = [pytest.mark.slow, pytest.mark.ddp]
MORE = ["CAMERA_AWARE.SOURCE_EPOCHS=1", "SOLVER.EPOCHS=3", "LOG.RANK_LIST=0", "TEST.CLUSTER.K1=8", "NAME=s"]
GRID = ["CAMERA_AWARE.EPS=0.6,0.9"]


def start(domains: Path, out: Path, *words: str) -> Command:
    return Command(
        ["sweep", "configs/demo.yml", *overrides(domains, out), *MORE, *words], OMP_NUM_THREADS="1"
    )


def rows(out: Path) -> list[dict[str, str]]:
    """``trials.csv`` without what depends on the way there."""
    with (out / "sweeps/s/trials.csv").open() as file:
        return [
            {k: v for k, v in r.items() if k not in ("attempts", "seconds", "host")}
            for r in csv.DictReader(file)
        ]


def living(out: Path) -> list[str]:
    """Training processes of a sweep."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "crossreid.engine.sweeps.child" in words and str(out / "sweeps/s") in words:
            found.append(entry.parent.name)
    return found


@pytest.fixture(scope="module")
def shared(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep that two launchers have worked on from the same moment on."""
    out = tmp_path_factory.mktemp("shared")
    launchers = [start(domains, out, *GRID, "--devices", "cpu") for _ in range(2)]
    said = [launcher.communicate(timeout=240)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], said
    started = [line.split()[2] for text in said for line in text.splitlines() if " started " in line]
    (out / "started").write_text("\n".join(sorted(started)))
    return out


def test_two_launchers_at_once_never_take_the_same_run(shared: Path) -> None:
    names = sorted(row["run"] for row in rows(shared))
    assert (shared / "started").read_text().split() == names  # each once
    assert sorted(p.name for p in (shared / "sweeps/s/claims").iterdir()) == [f"{name}.1" for name in names]


def test_a_sweep_killed_at_random_moments_gives_the_table_of_an_unbroken_one(
    domains: Path, shared: Path, tmp_path: Path
) -> None:
    words, chance = [*GRID, "--devices", "cpu,cpu"], random.Random()
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL, None):
        process = start(domains, tmp_path, *words)
        try:
            said = process.communicate(timeout=chance.uniform(1, 6) if number else 240)[0]
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            said = process.communicate(timeout=60)[0]
        assert process.returncode in (0, 130, -signal.SIGINT, -signal.SIGKILL), said
        deadline = time.monotonic() + 3
        while living(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not living(tmp_path)  # no run goes on without its launcher
        if process.returncode == 0:
            break
    assert process.returncode == 0, said
    whole, again = ((out / "sweeps/s/table.md").read_text() for out in (shared, tmp_path))
    assert again == whole
    assert [row["state"] for row in rows(tmp_path)] == ["done"] * 2
    assert rows(tmp_path) == rows(shared)
