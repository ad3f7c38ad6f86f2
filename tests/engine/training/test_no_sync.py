"""No training step of any method makes the host wait for the device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

from crossreid import configs
from crossreid.datasets import color
from crossreid.engine.data import Data, build_data
from crossreid.engine.distributed import Ranks
from crossreid.engine.log import Means
from crossreid.engine.method import Method
from crossreid.engine.methods import load_method
from crossreid.engine.training.prefetch import on_device
from tests.no_sync import NoSync
from tests.tiny import CPU, overrides, train

CUDA = Ranks(0, 1, torch.device("cuda", 0))
PAUL = ["CENTRAL_FEATURE.PATCHES", "2", "CENTRAL_FEATURE.NEIGHBORS", "2", "CENTRAL_FEATURE.NEAREST", "1"]
PAUL += ["INPUT.SIZE", "[64, 32]", "DATALOADER.INSTANCES", "2"]
ECN = ["ECN.SOURCE_EPOCHS", "0", "ECN.NEIGHBORS", "2", "ECN.NEIGHBOR_START", "1", "ECN.MMD", "true"]
CLUSTER = ["DATALOADER.INSTANCES", "2", "MODEL.BN_GROUP", "4", "CLUSTER_CONTRAST.SOURCE_EPOCHS", "0"]
CLUSTER += ["CLUSTER_CONTRAST.CLUSTER.K1", "10"]
CASES = {
    "camera_aware": ["configs/demo.yml", "CAMERA_AWARE.SOURCE_EPOCHS", "0", "CAMERA_AWARE.MIXUP", "true"]
    + ["CAMERA_AWARE.MIXUP_START", "1", "CAMERA_AWARE.INTER_START", "1", "SOLVER.GRAD_CLIP", "1"],
    "ecn": ["configs/ecn/demo.yml", *ECN],
    "disentangle": [
        "configs/disentangle/demo.yml",
        "DISENTANGLE.SOURCE_EPOCHS",
        "0",
        "DATALOADER.INSTANCES",
        "2",
    ],
    "m3l": ["configs/m3l/demo.yml", "DATALOADER.BATCH_SIZE", "24", "DATALOADER.INSTANCES", "2"]
    + ["M3L.PLAIN_EPOCHS", "0"],
    "m3l, joint": ["configs/m3l/demo.yml", "DATALOADER.BATCH_SIZE", "24", "DATALOADER.INSTANCES", "2"]
    + ["M3L.META", "false"],
    "cluster_contrast": ["configs/cluster_contrast/joint.yml", *CLUSTER],
    "cluster_contrast, unsupervised": [
        "configs/cluster_contrast/demo.yml",
        *CLUSTER,
        "DATASETS.SOURCES",
        "[]",
    ]
    + ["CLUSTER_CONTRAST.UPDATE", "hard"],
    "camera_proxy": ["configs/camera_proxy/demo.yml", "DATALOADER.INSTANCES", "2"]
    + ["CAMERA_PROXY.CLUSTER.K1", "10", "CAMERA_PROXY.INTRA_WEIGHT", "1"],
    "bau": ["configs/bau/demo.yml", "DATALOADER.BATCH_SIZE", "24", "DATALOADER.INSTANCES", "2"],
    "supervised": ["configs/supervised/demo.yml", "DATALOADER.INSTANCES", "2"],
    "central_feature": ["configs/central_feature/demo_pretrain.yml", *PAUL],
    "central_feature, second stage": ["configs/central_feature/demo.yml", *PAUL],
}


def test_every_method_is_here() -> None:
    assert {name.partition(",")[0] for name in CASES} == set(configs.method_names())


def build(name: str, domains: Path, tmp_path: Path, ranks: Ranks) -> tuple[Data, Method, Engine]:
    """The method and an engine that stands in the middle of its second epoch."""
    config, *more = CASES[name]
    arguments = overrides(domains, tmp_path, *more)
    if "second" in name:
        first = overrides(domains, tmp_path, *PAUL, "NAME", "first", "SOLVER.EPOCHS", "1")
        train(CASES["central_feature"][0], first)
        arguments += ["MODEL.WEIGHTS", str(tmp_path / "checkpoints" / "first" / "last.pt")]
    cfg = configs.load(config, arguments)
    data = build_data(cfg, ranks)
    method = load_method(cfg.METHOD).build(cfg, data)
    method.prepare(1)
    engine = Engine(method.train_step)
    engine.state.iteration, engine.state.epoch = len(data.streams) + 1, 2
    return data, method, engine


def steps(data: Data, method: Method, engine: Engine, means: Means) -> Iterator[None]:
    for batches in on_device(data.streams, data.ranks.device):
        means.add(engine.state.iteration, method.train_step(engine, batches))
        engine.state.iteration += 1
        yield


@pytest.mark.parametrize("name", CASES)
def test_no_step_reads_a_value(
    name: str, domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On the CPU the hue is turned for the chosen images alone; this is the line of the GPU.
    monkeypatch.setattr(
        color,
        "_where",
        lambda chosen, x, shift: torch.where(chosen.view(-1, 1, 1, 1), color.shift_hue(x, shift), x),
    )
    data, method, engine = build(name, domains, tmp_path, CPU)
    means = Means()
    with data.streams:
        run = steps(data, method, engine, means)
        next(run)  # constants are copied to the device once
        with NoSync():
            next(run)
            next(run)
    values, bad = means.read()
    assert not bad
    assert "loss" in values


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_no_step_waits_for_a_gpu(
    name: str, amp: str, domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CASES, name, [*CASES[name], "SOLVER.AMP", amp])
    data, method, engine = build(name, domains, tmp_path, CUDA)
    means = Means()
    with data.streams:
        run = steps(data, method, engine, means)
        next(run)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            next(run)
            next(run)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert not means.read()[1]
