"""``LOG.TRACKERS``: what ignite's loggers hand to W&B and MLflow, recorded by stand-ins of both packages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from crossreid.configs import ConfigError, load
from crossreid.engine.comparison.runs import read_run
from crossreid.engine.errors import InputError
from tests.tiny import overrides, train

WANDB = """
import json, os
def _tell(**what):
    with open(os.environ["STAND_IN"], "a") as file:
        file.write(json.dumps({"package": "wandb", **what}) + "\\n")
def init(**options):
    _tell(call="init", **options)
def log(values, step):
    _tell(call="log", values=values, step=step)
def finish():
    _tell(call="finish")
"""
MLFLOW = """
import json, os, types
_active = None
def _tell(**what):
    with open(os.environ["STAND_IN"], "a") as file:
        file.write(json.dumps({"package": "mlflow", **what}) + "\\n")
def set_experiment(name): pass
def active_run(): return _active
def start_run(run_id=None, run_name=None):
    global _active
    _active = types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id or "run-of-the-stand-in"))
    _tell(call="init", id=run_id, name=run_name)
def log_params(values): _tell(call="params", values=values)
def log_metrics(values, step): _tell(call="log", values=values, step=step)
def end_run():
    global _active
    _active = None
    _tell(call="finish")
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the stand-ins write down what they are told."""
    (tmp_path / "packages").mkdir()
    for name, text in (("wandb", WANDB), ("mlflow", MLFLOW)):
        (tmp_path / "packages" / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setenv("STAND_IN", str(tmp_path / "told.jsonl"))
    yield tmp_path / "told.jsonl"
    for name in ("wandb", "mlflow"):
        sys.modules.pop(name, None)


def test_both_get_the_numbers_of_our_own_file_and_a_resumed_run_goes_on(
    domains: Path, tmp_path: Path, told: Path
) -> None:
    words = overrides(
        domains, tmp_path, "LOG.TRACKERS", "[wandb,mlflow]", "NAME", "run", "LOG.RANK_LIST", "0"
    )
    train("configs/demo.yml", [*words, "CAMERA_AWARE.SOURCE_EPOCHS", "1"])
    ours = [json.loads(line) for line in (tmp_path / "logs/run/metrics.jsonl").open()]
    last = read_run(tmp_path / "logs/run")  # what comparisons read
    assert last.evaluations[-1].epoch == 2
    found = [ap for ap in last.aps if ap is not None]
    assert sum(found) / len(found) == pytest.approx(last.evaluations[-1].values["mAP"])
    ours = [{k: v for k, v in line.items() if k not in ("title", "epoch")} for line in ours]
    calls = [json.loads(line) for line in told.open()]
    for package in ("wandb", "mlflow"):
        mine = [call for call in calls if call["package"] == package]
        logged = [{"step": call["step"], **call["values"]} for call in mine if call["call"] == "log"]
        assert logged == ours
        assert (mine[0]["call"], mine[-1]["call"], mine[0]["name"]) == ("init", "finish", "run")
    init = calls[0]
    assert (init["project"], init["config"]["SOLVER.EPOCHS"], init["resume"]) == ("crossreid", 2, "allow")
    params = next(call["values"] for call in calls if call["call"] == "params")
    assert params["METHOD"] == "camera_aware"

    told.unlink()
    train(
        "configs/demo.yml",
        [*words, "CAMERA_AWARE.SOURCE_EPOCHS", "1", "SOLVER.EPOCHS", "3", "RESUME", "auto"],
    )
    again = [json.loads(line) for line in told.open()]
    assert [call["id"] for call in again if call["call"] == "init"] == [init["id"], "run-of-the-stand-in"]
    assert {call["step"] for call in again if call["call"] == "log"} == {9}
    assert not any(call["call"] == "params" for call in again)


def test_a_missing_package_or_an_unknown_name_is_one_line(
    domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"LOG\.TRACKERS names 'tensorboard', allowed are wandb, mlflow"):
        load("configs/demo.yml", ["LOG.TRACKERS", "[wandb,tensorboard]"])
    monkeypatch.setattr("crossreid.engine.extras.installed", lambda name: False)
    words = overrides(domains, tmp_path, "LOG.TRACKERS", "wandb", "CAMERA_AWARE.SOURCE_EPOCHS", "1")
    with pytest.raises(InputError, match=r'LOG.TRACKERS needs wandb: pip install "crossreid\[trackers\]"'):
        train("configs/demo.yml", words)
    assert not (tmp_path / "logs").exists()
