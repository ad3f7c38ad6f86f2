"""Every YAML in configs/ builds its method and trains a step."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from crossreid import configs
from crossreid.engine.methods import load_method
from tests.small_nets import shrink
from tests.tiny import overrides, train

TEMPLATES = sorted(Path("configs").glob("**/*.yml"))
SOURCES = ["synthetic:summer", "synthetic:night", "synthetic:indoor"]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: str(p.relative_to("configs")))
def test_one_step(path: Path, domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = configs.load(path)
    shrink(monkeypatch)
    own = cfg.MODEL.BACKBONE.startswith(("vit_", "solider_", "osnet_"))  # cut down, not replaced
    sources = SOURCES[: len(cfg.DATASETS.SOURCES)]
    streams = len(sources) + bool(cfg.DATASETS.ADAPT)
    arguments = overrides(
        domains, tmp_path, "DATASETS.SOURCES", str(sources), "DATASETS.TARGET", "synthetic:winter",
        "DATALOADER.BATCH_SIZE", str(8 * streams), "DATALOADER.ITERS_PER_EPOCH", "1", "SOLVER.EPOCHS", "1",
        "SOLVER.STEPS", "[1]", "SOLVER.WARMUP_EPOCHS", "0", "INPUT.SIZE", "[64, 32]" if own else "[32, 16]",
        "DATALOADER.WORKERS", "0",
    )  # fmt: skip
    if cfg.METHOD == "camera_aware":
        arguments += ["CAMERA_AWARE.SOURCE_EPOCHS", "0", "CAMERA_AWARE.INTRA_START", "1"]
    if cfg.METHOD == "ecn":
        arguments += ["ECN.SOURCE_EPOCHS", "0", "INPUT.CAMSTYLE", "statistics"]
    if cfg.METHOD == "disentangle":
        arguments += ["DISENTANGLE.SOURCE_EPOCHS", "0", "DISENTANGLE.DECODER_WIDTHS", "[16, 16, 16, 16]"]
        arguments += ["MODEL.WEIGHTS", "", "INPUT.SIZE", "[64, 32]"]  # of ARN's first stage; the stride is 32
        arguments += [
            "MODEL.BACKBONE",
            cfg.MODEL.BACKBONE if cfg.MODEL.BACKBONE.startswith("tiny") else "resnet18",
        ]
    if cfg.METHOD == "m3l":  # the templates differ in their domains alone
        arguments += ["M3L.PLAIN_EPOCHS", "0", "M3L.STEM_RELU", "true", "MODEL.BACKBONE", "tiny"]
    if cfg.METHOD in ("cluster_contrast", "camera_proxy", "bau"):
        arguments += ["DATALOADER.INSTANCES", "2", "MODEL.BN_GROUP", "0"]
        arguments += ["CLUSTER_CONTRAST.CLUSTER.EPS", "0.5"] if own else ["MODEL.BACKBONE", "tiny"]
    if cfg.METHOD in ("cluster_contrast", "camera_proxy"):
        arguments += [f"{cfg.METHOD.upper()}.CLUSTER.K1", "10"]
    if cfg.METHOD == "cluster_contrast":
        arguments += ["CLUSTER_CONTRAST.SOURCE_EPOCHS", "0"]
    if cfg.METHOD == "central_feature":
        arguments += ["INPUT.SIZE", "[96, 48]"]  # the patch generator needs maps of 3x3
        arguments += [
            "MODEL.BACKBONE",
            cfg.MODEL.BACKBONE if cfg.MODEL.BACKBONE.startswith("tiny") else "resnet18",
        ]
        if cfg.CENTRAL_FEATURE.STAGE == "unsupervised":
            stage_one = tmp_path / "stage_one.pt"
            torch.save(
                load_method(cfg.METHOD).build_extractor(configs.load(path, arguments)).state_dict(), stage_one
            )
            arguments += ["MODEL.WEIGHTS", str(stage_one)]
    train(str(path), arguments)
    lines = [json.loads(x) for x in (tmp_path / "logs" / cfg.NAME / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses) == 1
    assert math.isfinite(losses[0])
    assert losses[0] != 0
    assert 0 < next(line["target/mAP"] for line in lines if "title" in line) <= 1
    assert (tmp_path / "checkpoints" / cfg.NAME / "last.pt").is_file()
