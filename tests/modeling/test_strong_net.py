"""The supervised network: what trains, what retrieves, and the part features of a ViT."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from crossreid.modeling import ModelError
from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.strong_net import StrongNet, StrongOutput
from crossreid.modeling.vit import ViT


def test_training_and_retrieval() -> None:
    torch.manual_seed(0)
    net = StrongNet(build_backbone("tiny"), 5)
    images = torch.randn(6, 3, 32, 16)
    out = net(images)
    assert isinstance(out, StrongOutput)
    pooled = net.backbone(images).mean((2, 3))
    torch.testing.assert_close(out.pooled[0], pooled)
    neck = F.batch_norm(pooled, None, None, training=True)
    torch.testing.assert_close(out.logits[0], neck @ net.classifier[0].weight.T, rtol=1e-4, atol=1e-5)
    assert not net.neck.bias.requires_grad
    net.eval()
    with torch.no_grad():
        after, net.feature = net(images), "pooled"
        torch.testing.assert_close(after, net.neck(net(images)))


def test_parts_stand_behind_the_whole_divided_by_their_number() -> None:
    torch.manual_seed(0)
    vit = ViT(size=(64, 32), dim=12, depth=3, heads=2, patch=8)
    net = StrongNet(vit, 7, parts=4, feature="pooled")
    images = torch.randn(3, 3, 64, 32)
    out = net(images)
    assert [x.shape for x in out.pooled] == [(3, 12)] * 5
    assert [x.shape for x in out.logits] == [(3, 7)] * 5
    sum(x.sum() for x in out.logits).backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    net.eval()
    with torch.no_grad():
        vector = net(images)
        before_last = vit.blocks[1](vit.blocks[0](vit.embed(images)))
        torch.testing.assert_close(vector[:, :12], vit(images, net.pool))
        torch.testing.assert_close(vector[:, 12:], net.parts(before_last).flatten(1) / 4)


def test_parts_need_tokens() -> None:
    with pytest.raises(
        ModelError, match=r"SUPERVISED.PARTS 4 shuffles the patches of a ViT, and TinyBackbone has none"
    ):
        StrongNet(build_backbone("tiny"), 5, parts=4)
