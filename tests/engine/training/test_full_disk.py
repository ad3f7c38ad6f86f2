"""A full or read-only disk costs rows and pictures, told in one line, never the run or an earlier file."""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from crossreid.datasets import DatasetError
from crossreid.datasets.built_in import ensure
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.report import load_features, save_features, write_metrics
from crossreid.engine.evaluation.retrieval import Features, evaluate
from crossreid.engine.log import LOGGER, setup_text
from crossreid.engine.recorder import Recorder


@contextlib.contextmanager
def room(size: int) -> Iterator[None]:
    """No file may grow above a size: writing more fails with OSError, as on a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def steps(path: Path) -> list[int]:
    text = path.read_text()
    assert text.endswith("\n")
    return [json.loads(line)["step"] for line in text.splitlines()]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(LOGGER, "propagate", True)
    monkeypatch.setattr(LOGGER, "handlers", [])  # files of earlier runs
    caplog.set_level(logging.INFO, "crossreid")
    return caplog


def test_lines_wait_for_room_and_none_is_lost(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    recorder, path = Recorder(tmp_path, tensorboard=False), tmp_path / "metrics.jsonl"
    recorder.add(1, {"train/loss": 0.5})
    with room(path.stat().st_size + 10):
        for step in (2, 3):
            recorder.add(step, {"train/loss": 0.5})
            assert steps(path) == [1]  # no half line
    recorder.add(4, {"train/loss": 0.5})
    recorder.close()
    assert steps(path) == [1, 2, 3, 4]
    assert told.text.count("its lines wait for room") == 1


def test_lines_that_never_find_room_are_counted(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    recorder, path = Recorder(tmp_path, tensorboard=False), tmp_path / "metrics.jsonl"
    recorder.add(1, {"train/loss": 0.5})
    with room(path.stat().st_size):
        recorder.add(2, {"train/loss": 0.5})
        recorder.add(3, {"train/loss": 0.5})
        recorder.close()
    assert steps(path) == [1]
    assert "lacks 2 lines for want of room" in told.text


def test_a_resume_on_a_full_disk_keeps_the_old_lines(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    first = Recorder(tmp_path, tensorboard=False)
    for step in range(1, 9):
        first.add(step, {"train/loss": 0.5})
    first.close()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with room(20):
        again = Recorder(tmp_path, tensorboard=False, after=6)
        again.add(7, {"train/loss": 0.5})
        again.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert told.text.count("the run goes on without it") == 1


def test_tensorboard_and_pictures(
    tmp_path: Path, told: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder(tmp_path, tensorboard=True)
    picture = {"sheet": torch.randint(256, (3, 64, 64), dtype=torch.uint8)}
    recorder.draw(1, 1, picture)
    with room(600):
        for step in range(40):
            recorder.add(step, {"train/loss": 0.5})
        recorder.draw(1, 2, picture)
        recorder.close()
    assert [file.name for file in (tmp_path / "pictures").iterdir()] == ["sheet-0001.png"]
    assert told.text.count("no picture") == 1
    assert told.text.count("TensorBoard's files are incomplete") == 1
    assert "Traceback" not in capsys.readouterr().err


def test_the_text_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup_text(tmp_path / "train.log", quiet=False)
    LOGGER.info("whole")
    with room((tmp_path / "train.log").stat().st_size):
        LOGGER.info("late")
        LOGGER.info("late, too")
    setup_text(None, quiet=False)
    told = capsys.readouterr()
    assert told.err.count("train.log cannot be written, its lines wait for room") == 1
    assert "Traceback" not in told.err
    assert "late, too" in told.out
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["whole", "late", "late, too"]


def test_the_screen_sent_to_a_full_disk() -> None:
    program = "from crossreid.engine.log import *; setup_text(None, quiet=False); LOGGER.info('a'); LOGGER.info('b')"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0
    assert done.stderr == "warning: the text output ends here: [Errno 28] No space left on device\n"


def test_metrics_of_earlier_runs_are_kept(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    query, gallery = (
        Features(torch.randn(4, 3, generator=generator), torch.arange(4) % 2, torch.tensor([c, c, c, c]))
        for c in (0, 1)
    )
    path = tmp_path / "metrics.json"
    results = {"plain": evaluate(query, gallery)}
    write_metrics(path, "first", results)
    before = path.read_bytes()
    with room(100), pytest.raises(InputError, match=r"cannot write .*metrics\.json.*free some space"):
        write_metrics(path, "second", results)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_features_are_both_new_or_both_old(tmp_path: Path) -> None:
    def part(value: float, count: int) -> Features:
        return Features(torch.full((count, 64), value), torch.arange(count), torch.arange(count))

    save_features(tmp_path, "run", part(1.0, 2), part(1.0, 50))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with room(6000), pytest.raises(OSError, match="File too large"):  # the gallery has no room
        save_features(tmp_path, "run", part(2.0, 2), part(2.0, 50))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    (tmp_path / ".run-query.npz.4194305.tmp").touch()  # no process has so high a number
    save_features(tmp_path, "run", part(2.0, 2), part(2.0, 50))
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(before)
    assert load_features(tmp_path, "run")[1].vectors.unique().tolist() == [2.0]


def test_drawing_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    sizes = {"identities": 1, "test_identities": 1, "cameras": 2, "height": 64, "width": 32}
    with room(300), pytest.raises(DatasetError, match="cannot write built-in domain 'summer' under") as told:
        ensure("summer", tmp_path, workers=1, progress=False, **sizes)
    assert "\n" not in str(told.value)
    assert [path for path in tmp_path.rglob("*") if path.suffix in (".jpg", ".partial")] == []
