"""How long an epoch is and how large a batch: by the config, on any number of processes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from crossreid import configs
from crossreid.configs import ConfigError
from crossreid.engine.data import build_data, epoch_images, stream_batch
from crossreid.engine.distributed import Ranks
from crossreid.engine.errors import InputError
from tests.tiny import overrides, train

TEMPLATES = ["configs/duke2market.yml", "configs/ecn/market2msmt.yml", "configs/m3l/b_market.yml"]


@pytest.mark.parametrize(("kind", "images"), [("largest", 90), ("source", 70), ("target", 90)])
def test_an_epoch_is_a_pass_over_the_domain_that_is_named(kind: str, images: int) -> None:
    sizes = {"source_0": 50, "source_1": 70, "target": 90}
    domains: Any = {name: SimpleNamespace(images=range(size)) for name, size in sizes.items()}
    cfg = SimpleNamespace(DATALOADER=SimpleNamespace(EPOCH=kind))
    assert epoch_images(cfg, domains) == images  # type: ignore[arg-type]


def test_the_source_s_epoch_reaches_the_streams(domains: Path, tmp_path: Path) -> None:
    lengths = {}
    for kind in ("source", "target"):
        more = ["DATALOADER.ITERS_PER_EPOCH", "0", "DATALOADER.EPOCH", kind, "DATALOADER.BATCH_SIZE", "4"]
        more += ["CAMERA_AWARE.SOURCE_EPOCHS", "0"]
        cfg = configs.load("configs/demo.yml", overrides(domains, tmp_path, *more))
        data = build_data(cfg, Ranks(0, 1, torch.device("cpu")))
        lengths[kind] = len(data.streams)
        assert lengths[kind] == len(data.domains[kind].images) // 2
    assert lengths["source"] != lengths["target"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["DATALOADER.EPOCH", "steps"], "set DATALOADER.ITERS_PER_EPOCH"),
        (["DATALOADER.EPOCH", "target", "DATASETS.ADAPT", "false"], "needs a target to train on"),
    ],
)
def test_an_epoch_of_nothing_is_refused(change: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        configs.load(None, change)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("path", TEMPLATES)
def test_templates_run_on_one_to_four_processes(path: str, world: int) -> None:
    cfg = configs.load(path)
    streams = len(cfg.DATASETS.SOURCES) + bool(cfg.DATASETS.ADAPT)
    batch = stream_batch(cfg, streams, world)
    assert batch % (world * max(1, cfg.DATALOADER.INSTANCES)) == 0
    assert batch * streams == pytest.approx(cfg.DATALOADER.BATCH_SIZE, rel=0.07)
    if world != 3:
        assert batch * streams == cfg.DATALOADER.BATCH_SIZE


def test_rounding_is_asked_for_and_told(domains: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="15 cannot be divided over 1 domain"):
        stream_batch(configs.load(None, ["DATASETS.ADAPT=false", "DATALOADER.BATCH_SIZE=15"]), 1, 2)
    sources = "[synthetic:summer, synthetic:night, synthetic:indoor]"
    more = ["DATASETS.SOURCES", sources, "DATALOADER.BATCH_SIZE", "25", "DATALOADER.ROUND_BATCH", "true"]
    told = train(
        "configs/m3l/demo.yml", overrides(domains, tmp_path, *more, "SOLVER.EPOCHS", "1", "M3L.META", "false")
    )
    assert "a batch of 25 does not divide over 3 domains and 1 processes, it is 24" in told


def test_images_that_the_first_epoch_left_out_get_their_feature(domains: Path, tmp_path: Path) -> None:
    more = [
        "CAMERA_AWARE.SOURCE_EPOCHS",
        "0",
        "CAMERA_AWARE.MEMORY_INIT",
        "first",
        "DATALOADER.ITERS_PER_EPOCH",
        "1",
    ]
    for epochs, left_out in (("1", True), ("2", False)):
        out = tmp_path / epochs
        told = train("configs/demo.yml", overrides(domains, out, *more, "SOLVER.EPOCHS", epochs))
        memory = torch.load(out / "checkpoints/demo/last.pt", weights_only=True)["memory"]["features"]
        empty = (memory == 0).all(1)
        assert bool(empty.any()) is left_out
        assert ("target images that epoch 1 left out" in told) is not left_out
    torch.testing.assert_close(memory.norm(dim=1), torch.ones(len(memory)), atol=1e-5, rtol=0)
