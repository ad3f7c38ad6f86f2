"""Resuming with what does not fit, damaged checkpoints, and runs whose target gives no scores."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossreid import configs
from crossreid.configs import ConfigError
from crossreid.engine.errors import InputError, guarded
from crossreid.engine.evaluate import load_extractor
from crossreid.engine.evaluation.report import load_features
from crossreid.engine.evaluation.retrieval import Features, Retrieval, evaluate
from crossreid.engine.training.target import percent
from crossreid.modeling import ModelError
from crossreid.modeling.weights import read_checkpoint
from tests.tiny import overrides, train

ADAPT = ["CAMERA_AWARE.SOURCE_EPOCHS", "0"]


@pytest.fixture(scope="module")
def trained(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    train("configs/demo.yml", overrides(domains, out, "SOLVER.EPOCHS", "1", *ADAPT))
    return out / "checkpoints" / "demo" / "last.pt"


def again(domains: Path, out: Path, trained: Path, *more: str) -> str:
    return train("configs/demo.yml", overrides(domains, out, *ADAPT, "RESUME", str(trained), *more))


def test_an_empty_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "empty.pt").touch()
    with pytest.raises(ModelError, match=r"empty\.pt is not a whole checkpoint"):
        read_checkpoint(tmp_path / "empty.pt")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["SOLVER.OPTIMIZER", "sgd"], r"SOLVER\.OPTIMIZER was adamw, is sgd"),
        (["SEED", "7", "SOLVER.LR", "0.5"], r"SEED was 0, is 7; SOLVER\.LR was 0\.002, is 0\.5"),
        (["CAMERA_AWARE.EPS", "0.7"], r"CAMERA_AWARE\.EPS was 0\.\d+, is 0\.7"),
        (["DATALOADER.BATCH_SIZE", "8"], r"DATALOADER\.BATCH_SIZE was 16, is 8"),
        (["DATASETS.SYNTHETIC.SEED", "1"], "holds other images than the run that is to be resumed"),
        (["DATASETS.TARGET", "synthetic:night"], "holds other images than the run that is to be resumed"),
    ],
)
def test_what_changes_numbers_is_refused_by_name(
    change: list[str], told: str, domains: Path, tmp_path: Path, trained: Path
) -> None:
    with pytest.raises(InputError, match=told):
        again(domains, tmp_path, trained, *change)
    assert not (tmp_path / "logs" / "demo" / "config.yml").exists()  # nothing of the failed run is left


def test_what_changes_no_number_may_differ(domains: Path, tmp_path: Path, trained: Path) -> None:
    free = [
        "SOLVER.EPOCHS",
        "2",
        "SOLVER.STEPS",
        "[1, 2]",
        "TEST.PERIOD",
        "2",
        "LOG.PERIOD",
        "1",
        "ECN.ALPHA",
        "0.5",
    ]
    assert "epoch 2/2" in again(domains, tmp_path, trained, *free)
    assert "SOLVER.STEPS was" not in (tmp_path / "logs" / "demo" / "train.log").read_text()


def test_other_ranks_of_the_curve_after_a_resume(domains: Path, tmp_path: Path, trained: Path) -> None:
    table = again(domains, tmp_path, trained, "TEST.RANKS", "[1, 20]").split("Rank-20", 1)[1]
    first, last = (line for line in table.splitlines() if line.startswith(("training", "final")))
    assert first.split("best")[0].split()[-1] == "-"
    assert last.split("best")[0].split()[-1] != "-"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 99}, "format 99, this version reads 1"),
        ({"engine": 3}, "not a checkpoint of METHOD"),
        ({"config": "a: [}"}, "'s config is damaged"),
        ({"config": "[1, 2]"}, "'s config is damaged"),
        ({"model": {3: torch.ones(2)}}, "of another architecture|holds no weights"),
    ],
)
def test_damaged_contents(
    change: dict[str, Any], told: str, domains: Path, tmp_path: Path, trained: Path
) -> None:
    file = tmp_path / "changed.pt"
    torch.save({**read_checkpoint(trained), **change}, file)
    with pytest.raises((InputError, ConfigError, ModelError), match=told):
        again(domains, tmp_path, file)
    if "engine" not in change:  # evaluation needs none
        with pytest.raises((InputError, ConfigError, ModelError), match=told):
            load_extractor(file, None, [])


def test_a_run_of_a_used_name_is_refused_or_renamed(domains: Path, tmp_path: Path, trained: Path) -> None:
    folder = tmp_path / "checkpoints" / "demo"
    folder.mkdir(parents=True)
    shutil.copy(trained, folder / "last.pt")
    with pytest.raises(InputError, match="a run of this NAME exists; continue it with RESUME auto"):
        train("configs/demo.yml", overrides(domains, tmp_path, *ADAPT))
    elsewhere = shutil.copy(trained, tmp_path / "other.pt")
    with pytest.raises(InputError, match="a run of this NAME exists"):
        again(domains, tmp_path, Path(elsewhere))
    assert not (tmp_path / "logs").exists()
    told = train("configs/demo.yml", overrides(domains, tmp_path, *ADAPT, "SEED", "5", "IF_EXISTS", "rename"))
    assert "run demo-2:" in told
    assert (folder / "last.pt").read_bytes() == trained.read_bytes()
    assert (tmp_path / "checkpoints" / "demo-2" / "last.pt").is_file()
    assert not (tmp_path / "logs" / "demo").exists()


def test_the_schedule_of_a_resumed_run_is_its_own(domains: Path, tmp_path: Path, trained: Path) -> None:
    told = again(domains, tmp_path, trained, "SOLVER.STEPS", "[2]", "SOLVER.EPOCHS", "3")
    assert "epoch 3/3" in told
    content = read_checkpoint(tmp_path / "checkpoints" / "demo" / "last.pt")
    assert content["scheduler"]["_last_lr"] == pytest.approx([0.0002, 0.0002])


def test_a_target_without_matches_has_no_scores_and_no_best(
    domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_matches(query: Features, gallery: Features, *more: Any, **options: Any) -> Retrieval:
        return evaluate(query, replace(gallery, pids=torch.full_like(gallery.pids, 10**6)), *more, **options)

    monkeypatch.setattr("crossreid.engine.training.target.evaluate", without_matches)
    told = train("configs/demo.yml", overrides(domains, tmp_path, *ADAPT))
    assert "mAP -  Rank-1 -" in told
    assert "nan" not in told
    assert not (tmp_path / "checkpoints" / "demo" / "best.pt").exists()
    assert "last.pt" in told
    assert "best.pt" not in told
    lines = (tmp_path / "logs" / "demo" / "metrics.jsonl").read_text().splitlines()
    assert all(
        math.isfinite(v) for line in lines for v in json.loads(line).values() if not isinstance(v, str)
    )
    assert (percent(0.5), percent(math.nan)) == ("50.0", "-")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text"])
def test_files_that_hold_no_features(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run-query.npz").write_bytes(content)
    with pytest.raises(InputError, match="holds no features"):
        load_features(tmp_path, "run")


def test_features_with_odd_identities(tmp_path: Path) -> None:
    parts = {
        "vectors": np.zeros((2, 3), np.float32),
        "cams": np.zeros(2, np.int64),
        "paths": np.array(["a", "b"]),
    }
    for pids in (np.array(["x", "y"]), np.zeros((2, 1), np.int64), np.zeros(2)):
        np.savez(tmp_path / "run-query.npz", pids=pids, **parts)
        with pytest.raises(InputError, match=r"holds no features .* pids are"):
            load_features(tmp_path, "run")


@pytest.mark.parametrize("value", ["2020-13-45", "[1"])
def test_overrides_that_are_no_values(value: str) -> None:
    with pytest.raises(ConfigError, match="is not YAML"):
        configs.load("configs/demo.yml", ["NAME", value])


def test_no_rank_of_the_curve() -> None:
    with pytest.raises(ConfigError, match=r"TEST\.RANKS is empty"):
        configs.load("configs/demo.yml", ["TEST.RANKS", "[]"])


def test_an_interrupt_before_training_ends_without_a_traceback() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as left:
        guarded(interrupted)()
    assert left.value.code == 130
