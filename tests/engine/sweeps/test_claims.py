"""No two launchers take one run; a dead launcher's run is taken over, by one."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

from crossreid.engine.sweeps.claims import Claims

NAMES = [f"run-{i}" for i in range(60)]


def _grab(folder: Path, start: float, out: Path) -> None:
    claims = Claims(folder)
    while time.time() < start:
        pass
    out.write_text(json.dumps([name for name in NAMES if claims.take(name)]))
    time.sleep(1.5)  # alive until all have tried


def test_processes_that_grab_at_once_share_the_runs(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    files, start = [tmp_path / f"{i}.json" for i in range(4)], time.time() + 0.5
    workers = [context.Process(target=_grab, args=(tmp_path / "claims", start, file)) for file in files]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    taken = [name for file in files for name in json.loads(file.read_text())]
    assert sorted(taken) == sorted(NAMES)  # each of them, and none twice


def test_a_living_launcher_keeps_its_run_and_a_released_one_is_free(tmp_path: Path) -> None:
    claim = Claims(tmp_path).take("a")
    assert claim is not None
    assert Claims(tmp_path).take("a") is None
    assert Claims(tmp_path).held("a")
    assert claim.beat()
    claim.release()
    second = Claims(tmp_path).take("a")
    assert second is not None
    assert second.number == 2
    assert not claim.beat()  # the first has to give up


def _claim_and_die(folder: Path) -> None:
    Claims(folder).take("a")
    os._exit(9)


def test_the_run_of_a_dead_process_is_free_at_once(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_claim_and_die, args=(tmp_path,))
    process.start()
    process.join()
    claims = Claims(tmp_path)
    assert (tmp_path / "a.1").is_file()
    assert not claims.held("a")
    taken = claims.take("a")
    assert taken is not None
    assert taken.number == 2
    assert claims.take("a") is None


def test_a_launcher_of_another_machine_is_dead_when_it_has_been_silent(tmp_path: Path) -> None:
    claims = Claims(tmp_path, stale=60)
    for name, content in (("far", {"host": "other", "pid": 1, "place": "other"}), ("torn", None)):
        file = tmp_path / f"{name}.1"
        file.write_text(json.dumps(content) if content else "")
        assert claims.take(name) is None
        long_ago = file.stat().st_mtime - 61
        os.utime(file, (long_ago, long_ago))
        assert claims.take(name) is not None


def test_a_number_that_another_process_has_by_now_is_no_sign_of_life(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    claims.take("a")
    owner = json.loads((tmp_path / "a.1").read_text())
    (tmp_path / "a.1").write_text(json.dumps({**owner, "born": "1"}))
    assert claims.take("a") is not None
