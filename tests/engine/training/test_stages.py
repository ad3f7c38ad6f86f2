"""Stages in one command: a missing first stage is trained, a finished one used, another config's refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from yacs.config import CfgNode

from crossreid import configs
from crossreid.configs import ConfigError
from crossreid.engine.errors import InputError
from crossreid.engine.training.stages import run_stages
from crossreid.engine.training.trainer import run
from crossreid.modeling.weights import read_checkpoint
from tests.tiny import CPU, overrides

BASE = Path("configs/demo.yml").resolve()


class Stages:
    """Two YAMLs in a folder, and the names of the runs that were started."""

    def __init__(self, domains: Path, out: Path) -> None:
        pairs = overrides(domains, out)
        tiny = "CAMERA_AWARE: {SOURCE_EPOCHS: 1}\n" + "\n".join(
            f"{key}: {value}" for key, value in zip(pairs[::2], pairs[1::2])
        )
        self.out, self.started = out, list[CfgNode]()
        self.write("first.yml", f"_BASE_: {BASE}\nNAME: first\nDATASETS: {{ADAPT: false}}\n{tiny}\n")
        self.write("second.yml", f"_BASE_: {BASE}\nFIRST_STAGE: first.yml\nNAME: second\n{tiny}\n")

    def write(self, name: str, text: str) -> None:
        (self.out / name).write_text(text)

    def train(self, cfg: CfgNode) -> int:
        self.started.append(cfg)
        run(cfg, CPU)
        return 0

    def command(self, name: str, *more: str) -> list[str]:
        """Train a YAML; the names of the runs that this started."""
        self.started.clear()
        assert run_stages(configs.load(self.out / name, list(more)), list(more), self.train) == 0
        return [cfg.NAME for cfg in self.started]

    def last(self, name: str) -> Path:
        return self.out / "checkpoints" / name / "last.pt"


@pytest.fixture
def stages(domains: Path, tmp_path: Path) -> Stages:
    return Stages(domains, tmp_path)


def test_first_stage_is_trained_once_and_used(stages: Stages) -> None:
    assert stages.command("second.yml", "SOLVER.LR", "0") == ["first", "second"]
    assert str(stages.last("first")) == stages.started[1].MODEL.WEIGHTS
    assert stages.started[0].SOLVER.LR > 0  # an override is the last stage's
    assert stages.command("second.yml", "NAME", "other") == ["other"]
    assert stages.command("second.yml", "SOLVER.LR", "0", "RESUME", "auto") == ["second"]


def test_weights_start_the_second_stage(stages: Stages) -> None:
    frozen = ("SOLVER.LR", "0", "SOLVER.NEW_LR", "0")
    stages.command("second.yml", *frozen)
    first, second = (read_checkpoint(stages.last(name))["model"] for name in ("first", "second"))
    names = [name for name in first if name.endswith("weight")]
    assert names
    assert all(torch.equal(first[name], second[name]) for name in names)


def test_interrupted_first_stage_goes_on(stages: Stages) -> None:
    stages.command("first.yml", "SOLVER.EPOCHS", "1")
    assert read_checkpoint(stages.last("first"))["engine"]["iteration"] == 3
    assert stages.command("second.yml") == ["first", "second"]
    assert read_checkpoint(stages.last("first"))["engine"]["iteration"] == 6


def test_first_stage_of_another_config_is_refused(stages: Stages) -> None:
    stages.command("first.yml", "SEED", "1")
    with pytest.raises(InputError, match=r"FIRST_STAGE first: .*SEED was 1, is 0; set them back"):
        stages.command("second.yml")
    assert not stages.started
    assert stages.command("second.yml", "MODEL.WEIGHTS", str(stages.last("first"))) == ["second"]


@pytest.mark.parametrize("engine", [None, {}, {"iteration": "six", "epoch_length": 3}, {"iteration": 6}])
def test_first_stage_without_its_steps_is_refused(stages: Stages, engine: object) -> None:
    stages.last("first").parent.mkdir(parents=True)
    torch.save({"engine": engine, "config": "", "model": {}}, stages.last("first"))
    with pytest.raises(InputError, match=r"not the last\.pt of a training run, or it is damaged"):
        stages.command("second.yml")
    assert not stages.started


def test_bad_first_stages(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    stages.write("first.yml", "FIRST_STAGE: second.yml\n")
    with pytest.raises(InputError, match=r"need each other: first\.yml -> second\.yml -> first\.yml"):
        stages.command("second.yml")
    stages.write("first.yml", "SOLVER: {LR: fast}\n")
    with pytest.raises(ConfigError, match=r"SOLVER\.LR"):
        stages.command("second.yml")
    (stages.out / "first.yml").unlink()
    with pytest.raises(ConfigError, match=r"no config file .*first\.yml"):
        stages.command("second.yml")
    assert not stages.started
    assert not (stages.out / "checkpoints").exists()
