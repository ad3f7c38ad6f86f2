"""Clustering methods: rows of the memory, resuming in mid-epoch, two ranks against one, what cannot be clustered."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from crossreid import configs
from crossreid.configs import ConfigError
from crossreid.engine.data import build_data
from crossreid.engine.distributed import Ranks
from crossreid.engine.errors import InputError
from crossreid.engine.evaluate import main as evaluate
from crossreid.engine.methods import load_method
from crossreid.engine.methods.relabel import repeats
from crossreid.engine.training.handlers import Handlers, Stopped
from crossreid.losses.clusters import centroids
from tests.ranks import run_ranks
from tests.tiny import CPU, differences, overrides, train

STEPS = 3  # an epoch
DEMOS = {
    "joint": ["configs/cluster_contrast/joint.yml", "CLUSTER_CONTRAST.SOURCE_EPOCHS", "1"]
    + ["CLUSTER_CONTRAST.CLUSTER.K1", "10", "CLUSTER_CONTRAST.CLUSTER.DISTANCE", "jaccard"],
    "unsupervised": ["configs/cluster_contrast/demo.yml", "DATASETS.SOURCES", "[]"]
    + ["CLUSTER_CONTRAST.SOURCE_EPOCHS", "0", "CLUSTER_CONTRAST.UPDATE", "mean"]
    + ["CLUSTER_CONTRAST.CLUSTER.DISTANCE", "ca_jaccard", "CLUSTER_CONTRAST.CLUSTER.CAMERA_NORM", "true"]
    + ["CLUSTER_CONTRAST.CLUSTER.K1_INTER", "5", "CLUSTER_CONTRAST.CLUSTER.EPS", "0.4"],
    "camera_proxy": ["configs/camera_proxy/demo.yml", "CAMERA_PROXY.CLUSTER.K1", "10"]
    + ["CAMERA_PROXY.CLUSTER.DISTANCE", "jaccard", "CAMERA_PROXY.CLUSTER.CAMERA_NORM", "false"]
    + ["CAMERA_PROXY.INTRA_WEIGHT", "1"],
    "bau": ["configs/bau/demo.yml", "DATALOADER.BATCH_SIZE", "24"],
}
GROUPS = {"camera_proxy": "8"}  # repeated images leave four without variance: rounding grows
STILL = ["INPUT.FLIP", "0", "INPUT.CROP", "false", "INPUT.ERASE", "0"]  # augmentation depends on the rank


def arguments(domains: Path, out: Path, name: str, *more: str) -> list[str]:
    rest = [*DEMOS[name][1:], "DATALOADER.INSTANCES", "2", "SOLVER.EPOCHS", "3", *more]
    return overrides(domains, out, *rest)


def last(out: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(next(out.glob("checkpoints/*/last.pt")), weights_only=True)
    saved.pop("config")
    return saved


@pytest.mark.parametrize("name", DEMOS)
def test_a_run_stopped_in_mid_epoch_ends_in_the_same_bytes(
    name: str, domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DEMOS[name][0]
    train(config, arguments(domains, tmp_path / "straight", name))
    original = Handlers.seed_step

    def stopping(self: Handlers, engine: Any) -> None:
        original(self, engine)
        if engine.state.iteration == STEPS + 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Handlers, "seed_step", stopping)
    with pytest.raises(Stopped):
        train(config, arguments(domains, tmp_path / "broken", name))
    monkeypatch.undo()
    train(config, arguments(domains, tmp_path / "broken", name, "RESUME", "auto"))
    assert differences(last(tmp_path / "straight"), last(tmp_path / "broken")) == []


def _rank(rank: int, world: int, domains: Path, out: Path, name: str, more: list[str]) -> None:
    train(DEMOS[name][0], arguments(domains, out, name, *more), Ranks(rank, world, torch.device("cpu")))


@pytest.mark.ddp
@pytest.mark.parametrize("name", DEMOS)
def test_two_ranks_train_as_one(name: str, domains: Path, tmp_path: Path) -> None:
    more = [*STILL, "MODEL.BN_GROUP", GROUPS.get(name, "4"), "SOLVER.OPTIMIZER", "sgd", "SOLVER.EPOCHS", "2"]
    more += ["SOLVER.LR", "0.0001", "SOLVER.NEW_LR", "0.0001"]  # larger steps let rounding grow
    more += ["MODEL.LAST_STRIDE", "2"]
    more += ["BAU.JITTER_PROB", "0", "BAU.ERASE", "0"] if name == "bau" else []
    train(DEMOS[name][0], arguments(domains, tmp_path / "one", name, *more))
    run_ranks(_rank, 2, domains, tmp_path / "two", name, more)
    one, two = last(tmp_path / "one"), last(tmp_path / "two")
    if "labels" in one:
        assert torch.equal(one["labels"]["labels"], two["labels"]["labels"])
    for key, value in one["model"].items():
        if value.is_floating_point():
            torch.testing.assert_close(two["model"][key], value, rtol=1e-3, atol=1e-4)
    for state in ("memory", "prototypes"):
        for key, value in one.get(state, {}).items():
            torch.testing.assert_close(two[state][key], value, rtol=1e-3, atol=1e-3)


def test_the_memory_holds_identities_and_then_clusters(domains: Path, tmp_path: Path) -> None:
    cfg = configs.load(DEMOS["joint"][0], arguments(domains, tmp_path, "joint"))
    data = build_data(cfg, CPU)
    method = load_method(cfg.METHOD).build(cfg, data)
    memory, labels = method.state["memory"], method.state["labels"]
    method.prepare(1)
    identities = data.domains["source"].num_identities
    assert memory.rows.features.shape == (identities, 128)
    assert set(labels.labels.tolist()) == {0}
    method.prepare(2)
    clusters = labels.num_clusters
    assert memory.rows.features.shape == (identities + clusters, 128)
    images = data.domains["target"].images
    net: nn.Module = method.extractor.eval()
    with torch.no_grad():
        units = F.normalize(net(data.plain(images.__getitems__(np.arange(len(images))).images, None)))
    expected = centroids(units, labels.labels)
    torch.testing.assert_close(memory.rows.features[identities:], expected, rtol=1e-4, atol=1e-5)


def test_the_sources_norms_begin_where_the_targets_are(domains: Path, tmp_path: Path) -> None:
    train(DEMOS["joint"][0], arguments(domains, tmp_path, "joint", "SOLVER.EPOCHS", "2"))
    model = last(tmp_path)["model"]
    source, target = model["neck.source.running_mean"], model["neck.target.running_mean"]
    assert not torch.equal(source, target)
    assert (source - target).abs().max() < (source.abs().max() + target.abs().max())
    assert int(model["neck.source.num_batches_tracked"]) == 2 * STEPS  # those of the first epoch are copied


@pytest.mark.parametrize(("identities", "clusters"), [(4, 9), (4, 4), (5, 3), (8, 2), (7, 1)])
def test_no_cluster_comes_more_often_than_told(identities: int, clusters: int) -> None:
    from crossreid.datasets.samplers import IdentitySampler

    pids = np.repeat(np.arange(clusters), 3)
    rows = IdentitySampler(pids, identities, 2, num_batches=50).epoch(0)
    most = max(np.bincount(pids[batch]).max() for batch in rows)
    assert most <= repeats(identities, 2, clusters)


def refused(domains: Path, tmp_path: Path, name: str, *more: str) -> str:
    with pytest.raises((InputError, ConfigError)) as caught:
        train(DEMOS[name][0], arguments(domains, tmp_path, name, *more))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("joint", ["CLUSTER_CONTRAST.CLUSTER.K1", "5000"], ["CLUSTER.K1 is 5000", "lower it"]),
        ("unsupervised", ["CLUSTER_CONTRAST.CLUSTER.MIN_SAMPLES", "90"], ["0 clusters", "eps", "2 are needed"]),
        ("joint", ["DATASETS.SOURCES", "['synthetic:summer', 'synthetic:night']"], ["one source or none"]),
        ("joint", ["DATASETS.ADAPT", "false"], ["set DATASETS.ADAPT true"]),
        ("joint", ["DATALOADER.INSTANCES", "0"], ["set DATALOADER.INSTANCES"]),
        ("joint", ["MODEL.WEIGHTS", "some.pt"], ["set NORM split"]),
        ("joint", ["MODEL.BN_GROUP", "3"], ["BN_GROUP 3 does not divide the 8 images"]),
        ("joint", ["MODEL.BN_GROUP", "1"], ["set 0"]),
        ("unsupervised", ["CLUSTER_CONTRAST.SOURCE_EPOCHS", "1"], ["SOURCE_EPOCHS needs a source"]),
        ("camera_proxy", ["DATASETS.SOURCES", "['synthetic:summer']"], ["set it to []", "MODEL.WEIGHTS"]),
        ("camera_proxy", ["CAMERA_PROXY.INTRA_WEIGHT", "0", "CAMERA_PROXY.ONLINE_WEIGHT", "0"]
         + ["CAMERA_PROXY.OFFLINE_START", "2"], ["nothing to train with in epoch 1"]),
        ("bau", ["DATASETS.ADAPT", "true"], ["set DATASETS.ADAPT false"]),
        ("bau", ["DATALOADER.INSTANCES", "1"], ["INSTANCES is 1, set it to 2"]),
        ("bau", ["DATASETS.SOURCES", "['synthetic:night', 'synthetic:night']"], ["names a domain twice"]),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_named(
    name: str, more: list[str], words: list[str], domains: Path, tmp_path: Path
) -> None:
    told = refused(domains, tmp_path, name, *more)
    for word in words:
        assert word in told


@pytest.mark.parametrize(("cams", "words"), [(0, "are of one"), (-1, "have none (-1)")])
@pytest.mark.parametrize("name", ["camera_proxy", "unsupervised"])
def test_cameras_that_lack_are_named(
    name: str, cams: int, words: str, domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = configs.load(DEMOS[name][0], arguments(domains, tmp_path, name))
    data = build_data(cfg, CPU)
    data.domains["target"].images.split.cams[:] = cams
    with pytest.raises(InputError) as caught:
        load_method(cfg.METHOD).build(cfg, data)
    assert words in str(caught.value)


def test_fewer_clusters_than_a_batch_wants_are_told(domains: Path, tmp_path: Path) -> None:
    told = train(DEMOS["camera_proxy"][0], arguments(domains, tmp_path, "camera_proxy", "SOLVER.EPOCHS", "1"))
    assert "are fewer than the 8 that a batch holds, they repeat in it: lower DATALOADER.BATCH_SIZE" in told


def test_two_stages_and_the_evaluation_of_both_forms(
    domains: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["NAME", "source", "DATASETS.ADAPT", "false", "SOLVER.EPOCHS", "1"]
    train("configs/demo.yml", overrides(domains, tmp_path, *source))
    weights = str(tmp_path / "checkpoints/source/last.pt")
    second = ["NAME", "second", "MODEL.WEIGHTS", weights, "SOLVER.EPOCHS", "1", "TEST.AT_START", "true"]
    told = train(DEMOS["unsupervised"][0], arguments(domains, tmp_path, "unsupervised", *second))
    before = torch.load(tmp_path / "checkpoints/source/last.pt", weights_only=True)["progress"]["history"]
    after = torch.load(tmp_path / "checkpoints/second/last.pt", weights_only=True)["progress"]["history"]
    assert "weights from" in told
    assert after[0]["mAP"] == pytest.approx(before[-1]["mAP"])
    train(DEMOS["joint"][0], arguments(domains, tmp_path, "joint", "NAME", "joint", "SOLVER.EPOCHS", "2"))
    joint = torch.load(tmp_path / "checkpoints/joint/last.pt", weights_only=True)["progress"]["history"]
    capsys.readouterr()
    evaluate(["cpu", str(tmp_path / "checkpoints/joint/last.pt")])
    assert f"{100 * joint[-1]['mAP']:.1f}" in capsys.readouterr().out
