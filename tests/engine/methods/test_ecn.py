"""ECN's step against its formulas, its schedule, several ranks, resuming, camera style of the target, bad input."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from yacs.config import CfgNode

from crossreid import configs
from crossreid.datasets import DatasetError
from crossreid.datasets.samplers import StyledSampler
from crossreid.datasets.transforms import CameraStyle
from crossreid.engine.data import Data, build_data
from crossreid.engine.distributed import Ranks
from crossreid.engine.errors import InputError
from crossreid.engine.method import Method
from crossreid.engine.methods import ecn
from crossreid.losses.disentangle import mmd
from crossreid.losses.invariance import exemplar_invariance
from crossreid.modeling.ecn import ECNNet
from crossreid.modeling.weights import read_checkpoint
from tests.no_sync import NoSync
from tests.ranks import run_ranks
from tests.tiny import CPU, differences, overrides, train

CONFIG = "configs/ecn/demo.yml"
ADAPT = ["ECN.SOURCE_EPOCHS", "0", "ECN.EMBEDDING", "32", "ECN.NEIGHBOR_START", "2"]
STILL = [
    "INPUT.FLIP",
    "0",
    "INPUT.CROP",
    "false",
    "INPUT.ERASE",
    "0",
    "INPUT.CAMSTYLE",
    "none",
    "ECN.DROPOUT",
    "0",
]


def build(root: Path, out: Path, *more: str, ranks: Ranks = CPU) -> tuple[CfgNode, Data, Method]:
    cfg = configs.load(CONFIG, overrides(root, out, *ADAPT, *more))
    torch.manual_seed(cfg.SEED)
    data = build_data(cfg, ranks)
    return cfg, data, ecn.build(cfg, data)


def at(step: int, epoch: int) -> Any:
    return SimpleNamespace(state=SimpleNamespace(iteration=step, epoch=epoch))


@pytest.mark.parametrize("epoch", [1, 3])
def test_step_follows_the_formulas(domains: Path, tmp_path: Path, epoch: int) -> None:
    """Both halves of the loss, MMD, the neighbours' start and the memory's update, written out again."""
    more = ["ECN.MMD", "true", "ECN.LAMBDA", "0.4", "ECN.ALPHA", "0.25", "SOLVER.OPTIMIZER", "sgd"]
    _, data, method = build(domains, tmp_path, *STILL, *more)
    memory = method.state["memory"]
    rows = F.normalize(torch.randn(memory.features.shape, generator=torch.Generator().manual_seed(1)))
    memory.features.copy_(rows)
    net = copy.deepcopy(method.extractor)
    assert isinstance(net, ECNNet)
    with data.streams as streams:
        batches = next(streams)
    told = method.train_step(at(1, epoch), batches)

    source, target = batches["source"], batches["target"]
    with torch.no_grad():
        parts = net(data.plain(source.images, None), data.plain(target.images, None))
    k = 6 if epoch >= 2 else 0
    similarity = parts.exemplars @ rows.T
    expected = {
        "id": F.cross_entropy(parts.logits, source.pids),
        "invariance": exemplar_invariance(similarity, target.index, temperature=0.05, k=k),
        "mmd": mmd(parts.source, parts.target, sigmas=(1, 2, 10)),
    }
    expected["loss"] = 0.6 * expected["id"] + 0.4 * expected["invariance"] + 0.33 * expected["mmd"]
    assert set(told) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(told[name], value, rtol=1e-4, atol=1e-5)
    keep = 0.25 * (epoch - 1)
    for row, feature in zip(target.index.tolist(), parts.exemplars):
        rows[row] = F.normalize(keep * rows[row] + (1 - keep) * feature, dim=0)
    torch.testing.assert_close(memory.features, rows, rtol=1e-4, atol=1e-5)
    moved = [not torch.equal(a, b) for a, b in zip(net.parameters(), method.extractor.parameters())]
    assert all(moved)


def test_kept_share_starts_at_nothing_and_is_bounded() -> None:
    assert ecn.kept_share(0.01, 1) == 0
    assert ecn.kept_share(0.01, 60) == pytest.approx(0.59)
    assert ecn.kept_share(0.01, 300) == 1


def test_memory_starts_at_zero_and_the_source_phase_leaves_it(domains: Path, tmp_path: Path) -> None:
    _, data, method = build(domains, tmp_path, "ECN.SOURCE_EPOCHS", "1")
    with data.streams as streams:
        told = method.train_step(at(1, 1), next(streams))
        assert set(told) == {"loss", "id"}
        assert not method.state["memory"].features.any()
        told = method.train_step(at(2, 2), next(streams))
    assert set(told) == {"loss", "id", "invariance"}
    assert method.state["memory"].features.any(dim=1).sum() == 8  # the rows of the batch
    assert method.milestones == {1: "direct transfer"}


def test_step_never_waits_for_the_device(domains: Path, tmp_path: Path) -> None:
    more = ["SOLVER.OPTIMIZER", "sgd", "ECN.MMD", "true"]  # Adam reads its step count, which lies on the CPU
    _, data, method = build(domains, tmp_path, *more)
    with data.streams as streams:
        for epoch in (1, 2):
            batches = next(streams)
            with NoSync():
                method.train_step(at(epoch, epoch), batches)


def test_frozen_parameters_are_not_optimised(domains: Path, tmp_path: Path) -> None:
    more = ["ECN.FROZEN_STAGES", "3", "SOLVER.NEW_LR", "0.5"]
    _, _, method = build(domains, tmp_path, *more)
    net = method.extractor
    groups = method.state["optimizer"].param_groups
    assert [group["lr"] for group in groups] == [0.001, 0.5]
    trained = {id(p) for group in groups for p in group["params"]}
    assert trained == {id(p) for p in net.parameters() if p.requires_grad}
    assert {id(p) for p in net.new_layers()} == {id(p) for p in groups[1]["params"]}
    assert not any(id(p) in trained for p in net.backbone.stem.parameters())


def test_it_learns(domains: Path, tmp_path: Path) -> None:
    """Source identities are told apart, and target images find their own memory row."""
    _, data, method = build(domains, tmp_path, *STILL, "ECN.NEIGHBORS", "0", "SOLVER.NEW_LR", "0.01")
    losses = []
    with data.streams as streams:
        for step in range(1, 61):
            torch.manual_seed(step)
            told = method.train_step(at(step, 1 + step // 20), next(streams))
            losses.append([float(told["id"]), float(told["invariance"])])
    first, last = np.mean(losses[:5], axis=0), np.mean(losses[-5:], axis=0)
    assert last[0] < 0.6 * first[0]
    middle = np.mean(
        losses[25:30], axis=0
    )  # at first the memory is empty, and its loss the logarithm of its size
    assert last[1] < middle[1]


def joined_step(rank: int, world: int, root: str, out: str) -> dict[str, torch.Tensor]:
    """One step with batch norm in evaluation mode, so that images do not depend on those beside them."""
    ranks = Ranks(rank, world, torch.device("cpu"))
    more = ["SOLVER.OPTIMIZER", "sgd", "DATALOADER.BATCH_SIZE", "32"]
    _, data, method = build(Path(root), Path(out), *STILL, *more, ranks=ranks)
    for module in method.extractor.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    with data.streams as streams:
        for step in (1, 2):
            method.train_step(at(step, 2), next(streams))
    weights = {name: p.detach() for name, p in method.extractor.named_parameters()}
    return {**weights, "memory": method.state["memory"].features}


@pytest.mark.ddp
def test_two_ranks_are_one_on_the_joined_batch(domains: Path, tmp_path: Path) -> None:
    alone = joined_step(0, 1, str(domains), str(tmp_path))
    first, second = run_ranks(joined_step, 2, str(domains), str(tmp_path))
    assert alone["memory"].any(dim=1).sum() > 20
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5)


def test_two_epochs_resumed_to_four_equal_four(domains: Path, tmp_path: Path) -> None:
    """Source phase, dropout, camera style, both kinds of invariance and a growing kept share are in play."""
    more = [*ADAPT, "ECN.SOURCE_EPOCHS", "1", "ECN.ALPHA", "0.2", "ECN.MMD", "true", "TEST.PERIOD", "4"]
    more += ["DATALOADER.ITERS_PER_EPOCH", "2", "LOG.RANK_LIST", "0"]
    for name, steps in (("straight", ["4"]), ("broken", ["2", "4"])):
        for epochs in steps:
            arguments = overrides(domains, tmp_path / name, *more, "SOLVER.EPOCHS", epochs, "RESUME", "auto")
            train(CONFIG, arguments)
    saved = [
        read_checkpoint(tmp_path / name / "checkpoints" / "ecn-demo" / "last.pt")
        for name in ("straight", "broken")
    ]
    for content in saved:
        content.pop("config")  # holds OUTPUT_DIR
        content.pop("progress")  # the shorter run evaluated once more
    assert differences(*saved) == []
    assert saved[0]["memory"]["features"].any()


# Camera style ------------------------------------------------------------------------------------------------------

TRAIN = [f"{p:04d}_c{c}s1_{c:06d}_0{i}.jpg" for p in range(1, 5) for c in (1, 2, 4) for i in range(2)]


def own(
    root: Path, train_names: list[str] = TRAIN, *, copies: str = "cyclegan", drop: tuple[str, ...] = ()
) -> list[str]:
    """A Market-style data set with camera-style copies; overrides that make it the target."""
    home = root / "data" / "market1501"
    cams = sorted({name[6] for name in train_names})
    files = {f"bounding_box_train/{name}": (int(name[6]), i) for i, name in enumerate(train_names)}
    files |= {f"query/{name}": (int(name[6]), 0) for name in train_names[:1]}
    files |= {f"bounding_box_test/{name}": (int(name[6]), 0) for name in train_names[1:]}
    if copies:
        for i, name in enumerate(train_names):
            for cam in cams:
                copy_name = f"{Path(name).stem}_fake_{name[6]}to{cam}.jpg"
                if cam != name[6] and copy_name not in drop:
                    files[f"bounding_box_train_camstyle_{copies}/{copy_name}"] = (int(cam), i)
    for file, (cam, shade) in files.items():
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        colour = (60 * cam, 10 * shade % 250, 128)
        Image.new("RGB", (16, 32), colour).save(home / file, quality=95)
    names = ["DATASETS.ROOT", str(root / "data"), "DATASETS.SOURCES", "[market]", "DATASETS.TARGET", "market"]
    return [*names, "DATASETS.CACHE", "ram"]


def load(root: Path, *more: str) -> Data:
    return build_data(configs.load(CONFIG, overrides(root, root / "out", *ADAPT, *STILL, *more)), CPU)


def test_copies_keep_their_memory_row_and_are_drawn_evenly(tmp_path: Path) -> None:
    arguments = [*own(tmp_path), "INPUT.CAMSTYLE", "cyclegan", "DATALOADER.ITERS_PER_EPOCH", "60"]
    data = load(tmp_path, *arguments)
    images = data.domains["target"].images
    assert len(images) == 24
    assert isinstance(data.streams.samplers["target"], StyledSampler)
    assert not isinstance(data.streams.samplers["source"], StyledSampler)
    shown, own_camera = [], []
    with data.streams as streams:
        for step in range(1, 61):
            batch = next(streams)["target"]
            assert batch.index.tolist() == data.rows(step)["target"].tolist()
            shade = batch.images[:, 1].float().mean(dim=(1, 2)) / 10
            torch.testing.assert_close(
                shade, batch.index.float(), rtol=0, atol=0.5
            )  # of this image and no other
            cam = (batch.images[:, 0].float().mean(dim=(1, 2)) / 60).round().long()
            shown += cam.tolist()
            own_camera += (cam == batch.cams).tolist()
    assert np.mean(own_camera) == pytest.approx(1 / 3, abs=0.1)  # replaced with probability (C - 1) / C
    assert [shown.count(cam) / len(shown) for cam in (1, 2, 4)] == pytest.approx([1 / 3] * 3, abs=0.1)


def test_statistics_need_no_files_and_change_the_target_alone(tmp_path: Path) -> None:
    data = load(tmp_path, *own(tmp_path, copies=""), "INPUT.CAMSTYLE", "statistics")
    kinds = {name: [type(t) for t in domain.transform.transforms] for name, domain in data.domains.items()}
    assert kinds["target"][0] is CameraStyle
    assert CameraStyle not in kinds["source"]
    with data.streams as streams:
        batch = next(streams)["target"]
    plain, styled = data.plain(batch.images, None), data.augmented("target", batch, 1)
    assert torch.equal(styled, data.augmented("target", batch, 1))
    changed = ((plain - styled).abs().amax(dim=(1, 2, 3)) > 0.1).tolist()
    assert any(changed)
    assert not all(changed)  # a third keeps its camera


def test_bad_camera_style(tmp_path: Path) -> None:
    for kind in ("cyclegan", "stargan"):
        with pytest.raises(DatasetError, match=f"no folder .*bounding_box_train_camstyle_{kind}"):
            load(tmp_path, *own(tmp_path, copies=""), "INPUT.CAMSTYLE", kind)
    missing = (
        "0001_c1s1_000001_01_fake_1to2.jpg",
        "0003_c2s1_000002_00_fake_2to1.jpg",
        "0003_c2s1_000002_00_fake_2to4.jpg",
    )
    arguments = [*own(tmp_path, drop=missing), "INPUT.CAMSTYLE", "cyclegan"]
    with pytest.raises(InputError) as caught:
        load(tmp_path, *arguments)
    assert "2 of 24 training images of market lack copies (3 files)" in str(caught.value)
    assert "0001_c1s1_000001_01.jpg lacks 2; 0003_c2s1_000002_00.jpg lacks 1, 4;" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["statistics", "cyclegan"])
def test_one_camera_has_no_other_style(tmp_path: Path, kind: str) -> None:
    single = [name for name in TRAIN if "_c1" in name]
    with pytest.raises(
        InputError, match=r"one camera.*camera-invariance is impossible: set INPUT.CAMSTYLE none"
    ):
        load(tmp_path, *own(tmp_path, single), "INPUT.CAMSTYLE", kind)


def test_more_neighbours_than_images(domains: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"ECN.NEIGHBORS 5000 exceeds the memory: synthetic:winter/train has \d+"
    ):
        build(domains, tmp_path, "ECN.NEIGHBORS", "5000")


def test_bad_config(domains: Path, tmp_path: Path) -> None:
    for key, value, told in [
        ("INPUT.CAMSTYLE", "cyclegn", "did you mean cyclegan"),
        ("ECN.LAMBDA", "1.5", "ECN.LAMBDA is 1.5, allowed is 0 to 1"),
        ("ECN.MMD_SIGMAS", "[]", "ECN.MMD_SIGMAS is empty"),
        ("ECN.FROZEN_STAGES", "4", "ECN.FROZEN_STAGES is 4, allowed is 0 to 3"),
        ("DATASETS.SOURCES", "[market, duke]", "METHOD ecn takes one source"),
        ("ECN.SOURCE_EPOCHS", "2", "ECN.SOURCE_EPOCHS 2 leaves nothing of SOLVER.EPOCHS 2"),
        ("INPUT.CROP_AREA", "[0.9, 0.5]", "INPUT.CROP_AREA must be"),
    ]:
        with pytest.raises(configs.ConfigError, match=told.replace("[", r"\[")) as caught:
            configs.load(CONFIG, overrides(domains, tmp_path, *ADAPT, key, value))
        assert len(str(caught.value).split(os.linesep)) == 1
