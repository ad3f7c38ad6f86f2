"""A killed, stopped or failing rank is named in one line; no process and no temporary file is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crossreid.engine.errors import InputError
from crossreid.engine.training import watch
from tests.tiny import overrides

LONG = ["CAMERA_AWARE.SOURCE_EPOCHS", "0", "SOLVER.EPOCHS", "400", "TEST.PERIOD", "0", "LOG.PERIOD", "1"]
PROGRAM = """
import sys
from crossreid.engine.training import launch, watch
if __name__ == "__main__":
    watch.NAMED, watch.ENDED = 1.0, 3.0
    launch.main(sys.argv[1:])
"""


def alive(process: int) -> bool:
    """Whether a process runs; one that ended and waits for an init to collect it does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Run:
    """A training of two ranks that has made its first steps."""

    def __init__(self, domains: Path, folder: Path) -> None:
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        program = folder / "program.py"
        program.write_text(PROGRAM)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.temporary)}
        environment["PYTHONPATH"] = str(Path.cwd())
        arguments = overrides(domains, folder / "out", *LONG)
        self.process = subprocess.Popen(
            [sys.executable, str(program), "--devices", "cpu:2", "configs/demo.yml", *arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        )  # fmt: skip
        lines, end = folder / "out" / "logs" / "demo" / "metrics.jsonl", time.monotonic() + 120
        while not (lines.is_file() and '"step": 3,' in lines.read_text()):
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < end, "the run did not get that far"
            time.sleep(0.05)

    def rank(self, number: int) -> int:
        return int(next(self.temporary.glob(f"*/{number}.pid")).read_text())

    def ends(self, within: float) -> tuple[int, str]:
        """Exit code and error output; nothing of the run may be left."""
        start = time.monotonic()
        ranks = [self.rank(0), self.rank(1)]
        try:
            _, told = self.process.communicate(timeout=within)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        assert time.monotonic() - start < within
        assert not any(alive(process) for process in ranks)
        assert [file for file in self.temporary.rglob("*") if file.is_file()] == []
        return self.process.returncode, told


def leave(folder: Path, rank: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr(watch, "LINGER", 0.0)
    try:
        raise error
    except Exception as raised:
        return watch.report(folder, raised)


def test_the_reason_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch.explain(tmp_path, {1: -9}, set())[1] == 137
    assert "rank 1 was killed by signal 11; continue" in watch.explain(tmp_path, {1: -11}, set())[0]
    assert watch.explain(tmp_path, {0: 7}, set()) == (
        "error: rank 0 ended with exit code 7 and said nothing; continue with RESUME auto",
        7,
    )
    lost = RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:10396")
    assert leave(tmp_path, 0, lost, monkeypatch) == 1
    assert "rank 0 lost another process, see the other machines" in watch.explain(tmp_path, {0: 1}, set())[0]
    assert leave(tmp_path, 1, RuntimeError("a fault"), monkeypatch) == 1
    told, code = watch.explain(tmp_path, {0: 1}, set())  # found first, but it is not the one at fault
    assert told.startswith("Traceback")
    assert told.endswith("RuntimeError: a fault\n(of rank 1)")
    assert code == 1
    for rank in (0, 1):
        assert leave(tmp_path, rank, InputError("no such file"), monkeypatch) == 2
    assert watch.explain(tmp_path, {0: 2}, set()) == ("error: no such file", 2)


@pytest.mark.slow
@pytest.mark.ddp
def test_a_killed_rank_is_named_within_seconds(domains: Path, tmp_path: Path) -> None:
    run = Run(domains, tmp_path)
    os.kill(run.rank(1), signal.SIGKILL)
    code, told = run.ends(within=8)
    assert code == 137
    assert told == "error: rank 1 was killed by signal 9 (out of memory?); continue with RESUME auto\n"


@pytest.mark.slow
@pytest.mark.ddp
def test_a_stopped_rank_is_named_and_goes_on_or_is_ended(domains: Path, tmp_path: Path) -> None:
    run = Run(domains, tmp_path)
    process = run.rank(1)
    os.kill(process, signal.SIGSTOP)
    assert run.process.stderr is not None
    named = run.process.stderr.readline()
    assert f"rank 1 (process {process}) is stopped" in named
    os.kill(process, signal.SIGCONT)
    time.sleep(3)
    assert run.process.poll() is None  # goes on
    os.kill(process, signal.SIGSTOP)
    code, told = run.ends(within=12)
    assert code == 137
    assert "rank 1 was stopped for 3 s and ended; continue with RESUME auto" in told


@pytest.mark.slow
@pytest.mark.ddp
def test_a_killed_parent_leaves_no_process_and_no_file(domains: Path, tmp_path: Path) -> None:
    run = Run(domains, tmp_path)
    ranks = [run.rank(0), run.rank(1)]
    run.process.kill()
    run.process.wait()
    end = time.monotonic() + 5
    while time.monotonic() < end and any(alive(process) for process in ranks):
        time.sleep(0.1)
    assert not any(alive(process) for process in ranks)
    assert [file for file in run.temporary.rglob("*") if file.is_file()] == []
