"""Running means, the note about NaN, and records that survive a resumed run."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
import torch

from crossreid.engine.log import LOGGER, Means, setup_text
from crossreid.engine.recorder import Recorder


def test_means_are_read_once_and_forgotten() -> None:
    means = Means()
    means.add(1, {"a": torch.tensor(1.0), "b": torch.tensor(4.0)})
    means.add(2, {"a": torch.tensor(2.0)})
    assert means.read() == ({"a": 1.5, "b": 4.0}, 0)
    assert means.read() == ({}, 0)


def test_ranks_after_the_first_tell_errors_alone(capsys: pytest.CaptureFixture[str]) -> None:
    setup_text(None, quiet=True)
    LOGGER.warning("what every process warns of")
    LOGGER.error("what went wrong here")
    assert capsys.readouterr().out.split(" ", 1)[1] == "what went wrong here\n"


def test_no_line_is_told_twice(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    setup_text(tmp_path / "train.log", quiet=False)
    logging.getLogger("crossreid.datasets.store").info("decoding")
    LOGGER.info("training")
    for text in (capsys.readouterr().out, (tmp_path / "train.log").read_text()):
        assert [line.split()[1] for line in text.splitlines()] == ["decoding", "training"]


def test_the_first_bad_step_is_noted() -> None:
    means = Means()
    for step, value in enumerate([1.0, math.inf, math.nan, 2.0], start=7):
        means.add(step, {"good": torch.tensor(0.5), "loss": torch.tensor(value)})
    values, bad = means.read()
    assert bad == 8
    assert values["good"] == 0.5


def test_means_keep_no_graph() -> None:
    means, weight = Means(), torch.ones(1, requires_grad=True)
    means.add(1, {"loss": (weight * 2).sum().detach()})
    assert means.read()[0] == {"loss": 2.0}


def test_resuming_drops_later_lines(tmp_path: Path) -> None:
    first = Recorder(tmp_path, tensorboard=False)
    for step in (1, 2, 3):
        first.add(step, {"x": step / 2}, title="t")
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "x"')  # a killed run's last line
    again = Recorder(tmp_path, tensorboard=False, after=2)
    again.add(3, {"x": 9.0})
    again.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 1, "title": "t", "x": 0.5},
        {"step": 2, "title": "t", "x": 1.0},
        {"step": 3, "x": 9.0},
    ]


def test_a_new_run_starts_a_new_record_and_writes_tensorboard(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    recorder = Recorder(tmp_path, tensorboard=True)
    recorder.add(5, {"train/loss": 1.0})
    recorder.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 5
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_sums_of_steps_survive_a_stop_between_two_reports() -> None:
    values = [{"loss": torch.tensor(0.1 * k), "id": torch.tensor(1 / (k + 1))} for k in range(7)]
    values[3]["once"] = torch.tensor(5.0)
    unbroken, first, second = Means(), Means(), Means()
    for step, value in enumerate(values, 1):
        unbroken.add(step, value)
        (first if step < 5 else second).add(step, value)
        if step == 4:
            second.load_state_dict(first.state_dict())
            assert second.bad_step() == 0
    assert second.read() == unbroken.read()
    assert second.state_dict() == {"sums": []}


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        {"sums": [3]},
        {"sums": [{"names": ["loss"], "sum": torch.zeros(2), "count": 1}]},
        {"sums": [{"names": ["loss"], "sum": torch.zeros(1).double(), "count": 1}]},
        {"sums": [{"names": ["loss"], "sum": torch.zeros(1), "count": True}]},
    ],
)
def test_malformed_sums(state: object) -> None:
    with pytest.raises(ValueError, match="sums of steps are malformed"):
        Means().load_state_dict(state)
