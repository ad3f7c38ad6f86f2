"""A resumed run ends in the same bytes as an unbroken one, whatever broke it."""

from __future__ import annotations

import functools
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from crossreid.modeling.weights import read_checkpoint
from tests.processes import Command
from tests.tiny import differences, overrides, train

# Mixup, the memory's first pass, both neighbourhood losses, momentum and a falling rate are all in play.
EXAMPLE = ["CAMERA_AWARE.SOURCE_EPOCHS", "1", "CAMERA_AWARE.MIXUP", "true", "CAMERA_AWARE.INTER_START", "2"]
EXAMPLE += ["SOLVER.STEPS", "[2, 3]", "SOLVER.EPOCHS", "4", "CAMERA_AWARE.MIXUP_START", "2"]


def checkpoint(out: Path, name: str = "last.pt") -> dict[str, object]:
    content = read_checkpoint(out / "checkpoints" / "demo" / name)
    content.pop("config")  # holds OUTPUT_DIR and RESUME
    return content


def target_lines(out: Path) -> list[dict[str, object]]:
    lines = (out / "logs" / "demo" / "metrics.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if "title" in entry]


@pytest.fixture(scope="module")
def unbroken(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    train("configs/demo.yml", overrides(domains, out, *EXAMPLE))
    return out


def assert_same(out: Path, unbroken: Path) -> None:
    assert differences(checkpoint(out), checkpoint(unbroken)) == []
    assert differences(checkpoint(out, "best.pt"), checkpoint(unbroken, "best.pt")) == []
    assert target_lines(out) == target_lines(unbroken)


def test_the_same_seed_gives_the_same_bytes(domains: Path, tmp_path: Path, unbroken: Path) -> None:
    train("configs/demo.yml", overrides(domains, tmp_path, *EXAMPLE))
    assert_same(tmp_path, unbroken)


def test_another_seed_gives_others(domains: Path, tmp_path: Path, unbroken: Path) -> None:
    train("configs/demo.yml", overrides(domains, tmp_path, *EXAMPLE, "SEED", "1", "SOLVER.EPOCHS", "2"))
    model = checkpoint(tmp_path)["model"]
    assert "classifier.weight" in model
    assert len(differences(model, checkpoint(unbroken)["model"])) > 10


def test_two_epochs_resumed_to_four_equal_four(domains: Path, tmp_path: Path, unbroken: Path) -> None:
    arguments = overrides(domains, tmp_path, *EXAMPLE)
    train("configs/demo.yml", [*arguments, "SOLVER.EPOCHS", "2"])
    half = checkpoint(tmp_path)
    assert half["engine"]["iteration"] == 6
    told = train("configs/demo.yml", [*arguments, "RESUME", "auto"])
    assert "after 6 steps" in told
    content = checkpoint(tmp_path)
    # The shorter run called its second epoch "final": titles differ, numbers must not.
    for run in (content, (expected := checkpoint(unbroken))):
        run["progress"]["history"] = [
            {k: v for k, v in entry.items() if k != "title"} for entry in run["progress"]["history"]
        ]
    assert differences(content, expected) == []


def test_resuming_a_finished_run_changes_nothing(domains: Path, tmp_path: Path, unbroken: Path) -> None:
    arguments = overrides(domains, tmp_path, *EXAMPLE)
    path = unbroken / "checkpoints" / "demo" / "last.pt"
    told = train("configs/demo.yml", [*arguments, "RESUME", str(path)])
    assert "direct transfer" in told  # the table of the finished run
    assert not (tmp_path / "checkpoints" / "demo" / "last.pt").exists()


def start(domains: Path, out: Path, *more: str, devices: str = "cpu") -> Command:
    arguments = overrides(domains, out, *EXAMPLE, *more)
    return Command(["train", "--devices", devices, "configs/demo.yml", *arguments], OMP_NUM_THREADS="1")


def wait_for_step(out: Path, step: int, process: Command) -> None:
    """Wait until the run has recorded a step."""
    file = out / "logs" / "demo" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if file.is_file() and f'"step": {step},' in file.read_text():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    raise AssertionError("the run did not get that far")


SLOW = ["LOG.PERIOD", "1", "DATALOADER.ITERS_PER_EPOCH", "12", "SOLVER.EPOCHS", "3"]


@pytest.fixture(scope="module")
def straight(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """An unbroken run on given devices, once for all signals."""

    @functools.cache
    def run_on(devices: str) -> Path:
        out = tmp_path_factory.mktemp("straight")
        process = start(domains, out, *SLOW, devices=devices)
        told, _ = process.communicate(timeout=240)
        assert process.returncode == 0, told
        return out

    return run_on


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["cpu", pytest.param("cpu:2", marks=pytest.mark.ddp)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_broken_in_mid_epoch(
    domains: Path, tmp_path: Path, straight: Callable[[str], Path], devices: str, number: signal.Signals
) -> None:
    unbroken, broken = straight(devices), tmp_path
    process = start(domains, broken, *SLOW, devices=devices)
    wait_for_step(broken, 15, process)  # the second epoch is under way
    process.send_signal(number)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == (143 if number == signal.SIGTERM else -9), told
    if number == signal.SIGTERM:
        steps = checkpoint(broken)["engine"]["iteration"]
        assert 15 <= steps < 36, "the test must break the run before its end"
    process = start(domains, broken, *SLOW, "RESUME", "auto", devices=devices)
    told, _ = process.communicate(timeout=240)
    assert process.returncode == 0, told
    assert "resuming" in told
    assert_same(broken, unbroken)
