"""Batch norms over all ranks: plain ones are converted, those of our own stay what they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from crossreid.engine.distributed import Ranks, averaged, gathered, on_first, synchronise_batch_norms
from crossreid.engine.errors import InputError
from crossreid.losses.triplet import batch_hard
from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.reid import ReIDNet
from crossreid.modeling.split_norm import SplitBatchNorm1d
from tests.ranks import run_ranks


@pytest.mark.parametrize("backbone", ["tiny", "resnet18", "resnet50_ibn_a"])
def test_plain_norms_are_converted_and_the_split_neck_stays(backbone: str) -> None:
    network = ReIDNet(build_backbone(backbone), 5, sync_neck=True)
    names = [name for name, m in network.named_modules() if type(m) in (nn.BatchNorm1d, nn.BatchNorm2d)]
    parameters, keys = list(network.parameters()), list(network.state_dict())
    synchronise_batch_norms(network)
    assert names
    assert all(isinstance(network.get_submodule(name), nn.SyncBatchNorm) for name in names)
    assert not [name for name, m in network.named_modules() if type(m) in (nn.BatchNorm1d, nn.BatchNorm2d)]
    assert type(network.neck) is SplitBatchNorm1d
    assert network.neck.sync
    assert all(a is b for a, b in zip(parameters, network.parameters()))  # the optimizer's, too
    assert list(network.state_dict()) == keys


def test_a_converted_network_evaluates_as_before() -> None:
    torch.manual_seed(0)
    network = ReIDNet(build_backbone("tiny"), 5).eval()
    images = torch.randn(4, 3, 32, 16)
    before = network(images)
    synchronise_batch_norms(network)
    torch.testing.assert_close(network(images), before)
    network.neck.train()
    features = torch.randn(6, network.dim)
    first, second = network.neck(features)
    assert (len(first), len(second)) == (3, 3)


def _triplet(weight: torch.Tensor, images: torch.Tensor, pids: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """The gradient of a whole batch's triplet loss, each rank with its rows; differentiable."""
    features = gathered(torch.tanh(images @ weight), ranks)
    loss = batch_hard(features, gathered(pids, ranks), margin=0.3)
    return torch.autograd.grad(loss, weight, create_graph=True)[0]


def _batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(5, 4).double(), torch.randn(8, 5).double(), torch.tensor([0, 0, 1, 1, 0, 2, 2, 1])


def _of_rank(rank: int, world: int) -> Any:
    ranks = Ranks(rank, world, torch.device("cpu"))
    weight, images, pids = _batch()
    rows = slice(rank * 8 // world, (rank + 1) * 8 // world)
    weight.requires_grad_()
    first = _triplet(weight, images[rows], pids[rows], ranks)
    second = torch.autograd.grad(first.square().sum(), weight)[0]
    told = []
    for fails in (False, True):
        try:
            told.append(on_first(ranks, lambda f=fails: _answer(rank, f)))
        except InputError as error:
            told.append(str(error))
    return averaged([first.detach()], ranks)[0], bool(second.isfinite().all()), told


def _answer(rank: int, fails: bool) -> int:
    if fails:
        raise InputError(f"found on rank {rank}")
    return rank + 7


@pytest.mark.ddp
def test_gathered_rows_have_the_gradient_of_the_whole_batch() -> None:
    weight, images, pids = _batch()
    alone = _triplet(weight.requires_grad_(), images, pids, Ranks(0, 1, torch.device("cpu")))
    for gradient, twice, told in run_ranks(_of_rank, 2):
        torch.testing.assert_close(gradient, alone.detach(), rtol=1e-12, atol=1e-14)
        assert twice
        assert told == [7, "found on rank 0"]  # one answer, and one error, on every rank
