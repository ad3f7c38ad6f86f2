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
from crossreid.engine.checkpoint import set_aside
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


def test_another_optimizer_is_refused(domains: Path, tmp_path: Path, trained: Path) -> None:
    with pytest.raises(InputError, match=r"its SOLVER\.OPTIMIZER is adamw, this run's sgd"):
        again(domains, tmp_path, trained, "SOLVER.OPTIMIZER", "sgd")
    assert not (tmp_path / "logs" / "demo" / "config.yml").exists()  # nothing of the failed run is left


def test_rates_that_a_resumed_run_keeps_are_named(domains: Path, tmp_path: Path, trained: Path) -> None:
    told = again(domains, tmp_path, trained, "SOLVER.LR", "0.5")
    assert "RESUME goes on with the checkpoint's SOLVER.LR 0.001" in told
    assert "RESUME goes on" not in again(domains, tmp_path / "same", trained)


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
        ({"config": "a: [}"}, "the checkpoint's config is damaged"),
        ({"config": "[1, 2]"}, "the checkpoint's config is damaged"),
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


def test_a_new_run_sets_numbered_checkpoints_aside(tmp_path: Path) -> None:
    for name in ("last.pt", "best.pt", "epoch-00004.pt"):
        (tmp_path / name).touch()
    assert set_aside(tmp_path) == ["previous-best.pt", "previous-epoch-00004.pt", "previous-last.pt"]
    assert not list(tmp_path.glob("epoch-*.pt"))


def test_resuming_another_run_sets_this_name_s_checkpoints_aside(
    domains: Path, tmp_path: Path, trained: Path
) -> None:
    folder = tmp_path / "checkpoints" / "demo"
    folder.mkdir(parents=True)
    (folder / "last.pt").write_bytes(b"of an earlier run")
    record = tmp_path / "logs" / "demo" / "metrics.jsonl"
    record.parent.mkdir(parents=True)
    record.write_text('{"step": 1, "train/loss": 5.0}\n')
    assert "are kept as previous-last.pt" in again(domains, tmp_path, trained, "SOLVER.EPOCHS", "2")
    assert (folder / "previous-last.pt").read_bytes() == b"of an earlier run"
    steps = [json.loads(line)["step"] for line in record.read_text().splitlines()]
    assert min(steps) > 3  # none of the earlier run's
    own = train("configs/demo.yml", overrides(domains, tmp_path, *ADAPT, "RESUME", str(folder / "last.pt")))
    assert "previous" not in own


def test_resuming_from_a_kept_checkpoint_needs_another_name(
    domains: Path, tmp_path: Path, trained: Path
) -> None:
    folder = tmp_path / "checkpoints" / "demo"
    folder.mkdir(parents=True)
    shutil.copy(trained, folder / "previous-last.pt")
    with pytest.raises(InputError, match="of an earlier run of this NAME: give the resumed run another NAME"):
        again(domains, tmp_path, folder / "previous-last.pt")
    assert "epoch 2/2" in again(domains, tmp_path, folder / "previous-last.pt", "NAME", "other")


def test_a_run_without_a_step_sets_nothing_aside(domains: Path, tmp_path: Path, trained: Path) -> None:
    folder = tmp_path / "checkpoints" / "demo"
    folder.mkdir(parents=True)
    (folder / "last.pt").write_bytes(b"of an earlier run")
    again(domains, tmp_path, trained, "SOLVER.EPOCHS", "1")  # finished already
    assert (folder / "last.pt").read_bytes() == b"of an earlier run"


def test_the_schedule_of_a_resumed_run_is_its_own(domains: Path, tmp_path: Path, trained: Path) -> None:
    told = again(
        domains, tmp_path, trained, "SOLVER.STEPS", "[1]", "SOLVER.GAMMA", "0.5", "SOLVER.EPOCHS", "3"
    )
    assert "RESUME goes on" not in told
    content = read_checkpoint(tmp_path / "checkpoints" / "demo" / "last.pt")
    assert content["scheduler"]["_last_lr"] == pytest.approx([0.0005, 0.0005])


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
    with pytest.raises(ConfigError, match="not a YAML value"):
        configs.load("configs/demo.yml", ["NAME", value])


def test_no_rank_of_the_curve() -> None:
    with pytest.raises(ConfigError, match=r"TEST\.RANKS is empty"):
        configs.load("configs/demo.yml", ["TEST.RANKS", "[]"])


def test_an_interrupt_before_training_ends_without_a_traceback() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as left:
        guarded(interrupted)
    assert left.value.code == 130
