"""Label-free criteria at every evaluation of a run that adapts, and the checkpoint that they choose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from crossreid import configs
from crossreid.configs import ConfigError
from tests.tiny import differences, overrides, train

DEMO = "configs/demo.yml"
MORE = ("TEST.CLUSTER.K1", "8", "TEST.CLUSTER.K2", "2", "TEST.CLUSTER.EPS", "0.7", "SOLVER.EPOCHS", "4")
MORE += ("CAMERA_AWARE.SOURCE_EPOCHS", "1", "CHECKPOINT.SELECT", "camera_entropy", "CHECKPOINT.N_SAVED", "9")
MORE += ("TEST.CRITERIA", "true")


def test_criteria_are_logged_and_choose_a_checkpoint(domains: Path, tmp_path: Path) -> None:
    told = train(DEMO, overrides(domains, tmp_path, *MORE, "LOG.RANK_LIST", "2"))
    assert (tmp_path / "logs" / "demo" / "ranklist.png").is_file()
    lines = (tmp_path / "logs" / "demo" / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines if "criteria" in line]
    assert len(found) == 4
    scores = {epoch: line["criteria/camera_entropy"] for epoch, line in enumerate(found, 1)}
    assert all("criteria/density" in line and "target/mAP" in line for line in found)
    assert "criteria/stability" not in found[0]  # nothing to compare with
    assert all(-1 <= line["criteria/source_guided"] <= 1 for line in found)
    saved = tmp_path / "checkpoints" / "demo"
    best = max(scores, key=lambda epoch: (scores[epoch], -epoch))
    selected, numbered = (
        torch.load(saved / name, weights_only=True) for name in ("selected.pt", f"epoch-{best:05d}.pt")
    )
    assert differences(selected["model"], numbered["model"]) == []
    assert selected["progress"]["selected"] == {"camera_entropy": scores[best]}
    assert "result selected.pt (highest camera_entropy)" in told
    assert "criteria (epoch 1): " in told


def test_a_resumed_run_compares_with_the_clusters_before(domains: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(DEMO, overrides(domains, whole, *MORE))
    train(DEMO, overrides(domains, parts, *MORE, "SOLVER.EPOCHS", "2"))
    train(DEMO, overrides(domains, parts, *MORE, "RESUME", "auto"))
    one, other = (
        torch.load(folder / "checkpoints" / "demo" / "last.pt", weights_only=True)
        for folder in (whole, parts)
    )
    history = [run["progress"]["history"] for run in (one, other)]
    assert history[0][-1]["stability"] == pytest.approx(history[1][-1]["stability"], nan_ok=True)
    assert torch.equal(one["progress"]["clusters"], other["progress"]["clusters"])


def test_oracle_is_named_so_and_last_is_the_default(domains: Path, tmp_path: Path) -> None:
    told = train(
        DEMO, overrides(domains, tmp_path, *MORE, "CHECKPOINT.SELECT", "oracle", "TEST.CAMERA_NORM", "true")
    )
    assert "result best.pt (oracle: chosen by the target's labels)" in told
    assert "AP, normalised by camera; " in told
    assert configs.load(DEMO).CHECKPOINT.SELECT == "last"


def test_a_criterion_needs_images_to_judge() -> None:
    with pytest.raises(ConfigError, match=r"set TEST\.CRITERIA and DATASETS\.ADAPT true"):
        configs.load(DEMO, ["CHECKPOINT.SELECT", "density", "TEST.CRITERIA", "false"])
    with pytest.raises(ConfigError, match="judges by one labelled source"):
        configs.load("configs/camera_proxy/demo.yml", ["CHECKPOINT.SELECT", "source_guided"])
    with pytest.raises(ConfigError, match=r"CHECKPOINT\.SELECT is"):
        configs.load(DEMO, ["CHECKPOINT.SELECT", "accuracy"])
