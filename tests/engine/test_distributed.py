"""Batch norms over all ranks: plain ones are converted, those of our own stay what they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crossreid.engine.distributed import synchronise_batch_norms
from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.reid import ReIDNet
from crossreid.modeling.split_norm import SplitBatchNorm1d


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
