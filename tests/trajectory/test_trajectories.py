"""Whole training steps against recordings of the published programs: the checkers of this folder, each in a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import Script

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
RUNS = {
    "paul": [],
    "disentangle": ["--kind", "arn"],
    "disentangle, pose": ["--kind", "pose", "--require", "all"],
    "camera_aware": [],
    "ecn": [],
    "ecn, frozen": ["--require", "frozen", "--set", "ECN.SHORTCUT_NORMS", "frozen"],
    "m3l": [],
    "m3l, own": [
        "--tolerance",
        "1e-5",
        "--require",
        "own",
        "--set",
        "M3L.STEM_RELU",
        "true",
        "M3L.TEST_STATISTICS",
        "copies",
    ],
}


@pytest.mark.parametrize("name", RUNS)
def test_steps_are_the_published_programs(name: str) -> None:
    program, *_ = name.split(",")
    words = [str(ROOT), "--tolerance", "1e-6", *RUNS[name]]
    checker = Script(FOLDER / f"trajectory_{program}.py", words)
    told, _ = checker.communicate(timeout=300)
    assert checker.returncode == 0, told[-4000:]


def test_every_checker_runs() -> None:
    programs = {path.stem.removeprefix("trajectory_") for path in FOLDER.glob("trajectory_*.py")}
    assert programs == {name.partition(",")[0] for name in RUNS}
