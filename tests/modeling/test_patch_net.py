"""PatchNet: stripes at first, any window against a slow loop, a convolution a patch, when the generator learns."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossreid.modeling.errors import ModelError
from crossreid.modeling.patch_net import PatchFeatures, PatchNet, check_height, sample_windows
from crossreid.modeling.weights import load_network
from tests.golden_arrays import relative


class Maps(nn.Module):
    """A backbone of one convolution: [B, 3, H, W] to [B, 5, H/2, W/2]."""

    out_channels = 5

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 2, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


def network(patches: int = 3, classes: int = 4) -> PatchNet:
    torch.manual_seed(0)
    return PatchNet(Maps(), patches, 7, embed_dim=2, num_classes=classes).double()


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 3, 24, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def slow_window(feature_map: Tensor, window: Tensor, rows: int) -> Tensor:
    """Mean of bilinear readings of one map [C, h, w], zeros outside, pixel by pixel."""
    channels, height, width = feature_map.shape
    total = torch.zeros(channels, dtype=feature_map.dtype)
    for r in range(rows):
        for c in range(width):
            place = window @ torch.tensor(
                [(2 * c + 1) / width - 1, (2 * r + 1) / rows - 1, 1.0], dtype=window.dtype
            )
            x, y = (float(place[0]) + 1) * width / 2 - 0.5, (float(place[1]) + 1) * height / 2 - 0.5
            for j in (math.floor(y), math.floor(y) + 1):
                for i in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < width and 0 <= j < height:
                        total += feature_map[:, j, i] * (1 - abs(x - i)) * (1 - abs(y - j))
    return total / (rows * width)


def test_any_window_equals_a_slow_loop() -> None:
    maps = torch.randn(2, 5, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    windows = torch.randn(2, 3, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.6
    found = sample_windows(maps, windows)
    for b in range(2):
        for k in range(3):
            assert relative(found[b, k], slow_window(maps[b], windows[b, k], 2)) < 1e-9


@pytest.mark.parametrize("patches", [1, 2, 3, 6])
def test_at_first_windows_are_stripes(patches: int) -> None:
    net = network(patches)
    maps = net.backbone(images()).detach()  # 12 rows
    windows = net.windows(maps)
    if patches == 6:
        assert torch.allclose(
            windows[0, :, 1, 2], torch.tensor([-5.0, -3, -1, 1, 3, 5], dtype=torch.float64) / 6
        )
    expected = torch.stack([stripe.mean(dim=(2, 3)) for stripe in maps.chunk(patches, dim=2)], dim=1)
    assert relative(sample_windows(maps, windows), expected) < 1e-6  # the stripes' numbers are float32


def test_every_patch_has_its_own_convolution_norm_and_classifier() -> None:
    net = network()
    found = net(images())
    assert isinstance(found, PatchFeatures)
    stripes = net.backbone(images()).chunk(3, dim=2)
    for k, stripe in enumerate(stripes):
        pooled = stripe.mean(dim=(2, 3), keepdim=True)
        reduced = F.conv2d(pooled, net.reduction.weight[k][:, :, None, None]).flatten(1)
        normed = F.batch_norm(reduced, None, None, training=True)
        assert relative(found.patches[k], F.normalize(normed)) < 1e-5
        assert relative(found.logits[k], normed @ net.classifier.weight[k].T) < 1e-5
        assert relative(found.embedding[:, 2 * k : 2 * k + 2], normed @ net.embedding.weight[k].T) < 1e-5


def test_evaluation_gives_the_unit_patches_side_by_side() -> None:
    net = network()
    net(images())
    net.eval()
    features = net(images())
    assert features.shape == (6, 21)
    lengths = features.unflatten(1, (3, 7)).norm(dim=2)
    assert torch.allclose(lengths, torch.ones_like(lengths))
    assert torch.equal(net(images()[:1]), features[:1]), "one image's features must not depend on the others"


def test_the_generator_learns_only_when_asked() -> None:
    net = network()
    net(images()).logits.square().sum().backward()
    assert all(p.grad is None for p in net.generator.parameters())
    statistics = net.generator.trunk[1].num_batches_tracked
    assert statistics == 0
    assert net.backbone.conv.weight.grad is not None
    net.zero_grad(set_to_none=True)
    net(images(), train_generator=True).logits.square().sum().backward()
    assert bool(net.generator.last.weight.grad.abs().sum() > 0)
    assert statistics == 1
    net.eval()
    net(images(), train_generator=True)
    assert statistics == 1, "evaluation must not move the generator's statistics"


def test_windows_depend_on_the_image_once_learned_and_survive_loading() -> None:
    net = network()
    net.eval()
    assert torch.equal(*net.windows(net.backbone(images()[:2])))
    optimizer = torch.optim.SGD(net.generator.parameters(), lr=1.0)
    net.train()
    for _ in range(2):  # the first step moves the last layer alone
        optimizer.zero_grad()
        net(images(), train_generator=True).logits.square().sum().backward()
        optimizer.step()
    net.eval()
    windows = net.windows(net.backbone(images()[:2]))
    assert not torch.allclose(windows[0], windows[1])
    other = network(classes=0)  # stage 2
    assert other.generator.constant
    skipped = load_network(other, net.state_dict(), "stage 1")
    assert skipped == ["classifier.weight", "embedding.weight"]
    assert not other.generator.constant
    other.eval()
    assert torch.equal(other(images()), net(images()))
    assert torch.equal(other.windows(other.backbone(images()[:2])), windows)


def test_the_shortcut_of_constant_windows_changes_nothing() -> None:
    net = network()
    net.eval()
    maps = net.backbone(images())
    short = net.windows(maps)
    net.generator.constant = False
    assert torch.equal(net.windows(maps), short)


def test_windows_give_the_maps_no_gradient_of_their_own() -> None:
    net = network()
    maps = net.backbone(images()).detach().requires_grad_()
    net.windows(maps, train=True).sum().backward()
    assert maps.grad is None


def test_a_height_that_does_not_divide_is_told() -> None:
    net = network(patches=5)
    with pytest.raises(
        ModelError, match=r"12 rows, which 5 patches do not divide.*multiple of 10, for example 20"
    ):
        net(images())
    check_height(24, 384, 6)
    with pytest.raises(ModelError, match="multiple of 96, for example 288"):
        check_height(16, 256, 6)
