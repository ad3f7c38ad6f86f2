"""Who builds a store: several processes, killed ones, full disks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from crossreid.datasets import pool, store
from crossreid.datasets.images import ImageDataset
from tests.datasets.stores import ROOT, SIZE, everything, make_split, stores

BUILD = """
import sys, numpy as np
from crossreid.datasets import Split
from crossreid.datasets.images import ImageDataset
import crossreid.datasets.store
crossreid.datasets.store.FEW = 1
paths = tuple(open(sys.argv[1]).read().split())
rows = np.arange(len(paths))
dataset = ImageDataset(Split(paths, rows, rows, "own"), (256, 128), cache=sys.argv[3], cache_dir=sys.argv[2], workers=2)
print(dataset.mode, int(dataset.gather(rows).images.sum()))
"""


def start(paths: tuple[str, ...], folder: Path, mode: str = "disk", limit: str = "") -> subprocess.Popen[str]:
    table = folder.parent / "paths.txt"
    table.write_text("\n".join(paths))
    command = [sys.executable, "-c", BUILD, str(table), str(folder), mode]
    if limit:
        command = ["bash", "-c", f'{limit}; exec "$@"', "bash", *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_killed_build_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    split = make_split(tmp_path / "images", 40)
    folder = tmp_path / "cache"
    process = start(split.paths * 400, folder)  # some seconds of work
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.tmp")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1)
    workers = children(process.pid)
    assert process.poll() is None
    assert len(workers) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(folder.glob("*.u8"))
    second = start(split.paths, folder)  # is not kept waiting by the dead one or its workers
    assert second.communicate(timeout=60)[0].startswith("disk")
    assert [path.suffix for path in stores(folder)] == [".u8"]
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, workers))


def test_drafts_of_killed_builds_are_removed(tmp_path: Path) -> None:
    split = make_split(tmp_path / "images")
    good = everything(ImageDataset(split, SIZE, cache_dir=tmp_path / "cache"))
    (path,) = stores(tmp_path / "cache")
    path.with_name(f"{path.name}.123.tmp").write_bytes(b"x")
    path.write_bytes(b"damaged")
    assert (everything(ImageDataset(split, SIZE, cache_dir=tmp_path / "cache")) == good).all()
    assert stores(tmp_path / "cache") == [path]


def test_one_builds_while_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_split(tmp_path / "images")
    build, built = store._build, []

    def slow_build(*arguments: Any) -> None:
        built.append(threading.get_ident())
        time.sleep(0.3)  # long enough for the others to come
        build(*arguments)

    monkeypatch.setattr(store, "_build", slow_build)
    with ThreadPoolExecutor(3) as pool:  # the lock belongs to an open folder, not to a process
        opened = pool.map(
            lambda _: everything(ImageDataset(split, SIZE, cache_dir=tmp_path / "cache")), range(3)
        )
        first, *others = opened
    assert len(built) == 1
    assert all((first == other).all() for other in others)


def test_two_processes_build_once_and_share(tmp_path: Path) -> None:
    split = make_split(tmp_path / "images", 40)
    processes = [start(split.paths * 10, tmp_path / "cache") for _ in range(2)]
    outputs = [process.communicate(timeout=90) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert len(stores(tmp_path / "cache")) == 1


def test_workers_write_what_one_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_split(tmp_path / "images", 9)
    Path(split.paths[4]).write_bytes(Path(split.paths[4]).read_bytes()[:200])
    options = {"on_corrupt": "skip", "workers": 3}
    alone = ImageDataset(split, SIZE, cache_dir=tmp_path / "one", **options)
    monkeypatch.setattr("crossreid.datasets.store.FEW", 1)
    together = ImageDataset(split, SIZE, cache_dir=tmp_path / "three", **options)
    assert stores(tmp_path / "one")[0].read_bytes() == stores(tmp_path / "three")[0].read_bytes()
    assert alone.skipped == together.skipped
    assert len(alone) == 8


def test_a_killed_worker_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    split = make_split(tmp_path / "images")
    monkeypatch.setattr(store, "run", lambda *_: pool.run(os._exit, [9, 9], 2))
    assert ImageDataset(split, SIZE, cache="disk", cache_dir=tmp_path / "cache").mode == "off"
    assert [
        record.message.partition("(")[2] for record in caplog.records if record.levelname == "WARNING"
    ] == [
        f"{tmp_path / 'cache'}: a worker process was killed (out of memory?)); "
        "images are decoded while training, slower"
    ]
    assert stores(tmp_path / "cache") == []


def test_workers_do_not_run_the_caller_s_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "print('once')\nfrom crossreid.datasets.pool import run\nprint(list(run(abs, [-1, -2, 3], 2)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n") == ["once", "[1, 2, 3]", ""]


def test_errors_of_workers_arrive_as_they_are() -> None:
    with pytest.raises(ValueError, match="invalid literal for int"):
        list(pool.run(int, ["1", "x", "3"], 2))


def test_full_disk_is_one_line_and_streaming(tmp_path: Path) -> None:
    split = make_split(tmp_path / "images")
    process = start(split.paths, tmp_path / "cache", "disk", "ulimit -f 100")  # no file over 100 KiB
    output, errors = process.communicate(timeout=60)
    assert output.startswith("off"), errors
    lines = [line for line in errors.splitlines() if line]
    assert len(lines) == 1
    assert "own: no image store" in lines[0]
    assert "File too large" in lines[0]
    assert stores(tmp_path / "cache") == []
    with_store = start(split.paths, tmp_path / "other").communicate(timeout=60)[0]
    assert with_store.split()[1] == output.split()[1]  # the same pixels
