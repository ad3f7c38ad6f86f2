"""Feature extraction: in order, unpadded, the same on two ranks as on one; flip test; signals agreed by all ranks."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from crossreid import configs
from crossreid.engine.distributed import Ranks, average_buffers
from crossreid.engine.evaluation.extraction import extract, gather_rows
from crossreid.engine.optim import Precision
from crossreid.engine.reading import build_evaluation
from crossreid.engine.stopping import StopRequest
from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.reid import ReIDNet
from tests.ranks import run_ranks
from tests.tiny import CPU, overrides

PLAIN = Precision("float32", torch.device("cpu"))


def network() -> nn.Module:
    torch.manual_seed(3)
    return ReIDNet(build_backbone("tiny"), 0)


def query_features(ranks: Ranks, root: str, batch_size: int = 5, flip: bool = False) -> torch.Tensor:
    cfg = configs.load(
        "configs/demo.yml", [*overrides(Path(root), Path(root)), "CAMERA_AWARE.SOURCE_EPOCHS", "0"]
    )
    target = build_evaluation(cfg, cfg.DATASETS.TARGET)
    return extract(
        network(), target.query, target.plain, ranks, PLAIN, batch_size=batch_size, flip=flip
    ).vectors


def test_order_batches_and_mode(domains: Path) -> None:
    cfg = configs.load("configs/demo.yml", [*overrides(domains, domains), "CAMERA_AWARE.SOURCE_EPOCHS", "0"])
    target, net = build_evaluation(cfg, cfg.DATASETS.TARGET), network()
    features = extract(net, target.query, target.plain, CPU, PLAIN, batch_size=3)
    assert net.training
    net.eval()
    rows = range(len(target.query))
    with torch.no_grad():
        one_by_one = torch.cat([net(target.plain(target.query.__getitems__([i]).images, None)) for i in rows])
    torch.testing.assert_close(features.vectors, one_by_one, rtol=1e-4, atol=1e-5)
    assert features.pids.tolist() == target.query.split.pids.tolist()
    assert list(features.paths) == list(target.query.split.paths)


def test_flip_adds_the_mirrored_unit_vectors(domains: Path) -> None:
    cfg = configs.load("configs/demo.yml", [*overrides(domains, domains), "CAMERA_AWARE.SOURCE_EPOCHS", "0"])
    target, net = build_evaluation(cfg, cfg.DATASETS.TARGET), network().eval()
    images = target.plain(target.query.__getitems__(range(len(target.query))).images, None)
    with torch.no_grad():
        expected = F.normalize(net(images)) + F.normalize(net(images.flip(3)))
    torch.testing.assert_close(query_features(CPU, str(domains), flip=True), expected, rtol=1e-4, atol=1e-5)


def features_of_rank(rank: int, world: int, root: str) -> torch.Tensor:
    return query_features(Ranks(rank, world, torch.device("cpu")), root)


@pytest.mark.ddp
def test_two_ranks_give_what_one_gives(domains: Path) -> None:
    expected = query_features(CPU, str(domains))
    assert len(expected) % 2 == 1, "the split must be uneven for this test to say something"
    for features in run_ranks(features_of_rank, 2, str(domains)):
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def collective_helpers(rank: int, world: int) -> tuple[torch.Tensor, list[float], list[int]]:
    ranks = Ranks(rank, world, torch.device("cpu"))
    rows = gather_rows(torch.full((rank * 2, 3), float(rank)), ranks)  # rank 0 holds nothing
    norm = nn.BatchNorm1d(2)
    norm.running_mean.fill_(float(rank))
    norm.running_var.fill_(1 + 2.0 * rank)
    average_buffers(norm, ranks)
    answers = []
    with StopRequest(ranks) as stop:
        for step in range(4):
            if step == 1 and rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            stop.poll()
            answers.append(stop.agreed())
    return rows, [*norm.running_mean.tolist(), *norm.running_var.tolist()], answers


@pytest.mark.ddp
def test_ranks_agree() -> None:
    for rows, buffers, answers in run_ranks(collective_helpers, 2):
        assert rows.tolist() == [[1.0] * 3] * 2
        assert buffers == [0.5, 0.5, 2.0, 2.0]
        assert answers == [0, 0, signal.SIGTERM, signal.SIGTERM]  # one step after rank 1 was asked, on both
