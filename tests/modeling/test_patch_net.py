"""PatchNet: stripes at first, any window against a slow loop, a convolution a patch, when the generator learns."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossreid.modeling.errors import ModelError
from crossreid.modeling.patch_net import PatchFeatures, PatchNet, sample_windows
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


def slow_window(feature_map: Tensor, window: Tensor) -> Tensor:
    """Mean of bilinear readings of one map [C, h, w] at h x w places, corners aligned, zeros outside, one by one."""
    channels, height, width = feature_map.shape
    total = torch.zeros(channels, dtype=feature_map.dtype)
    for r in range(height):
        for c in range(width):
            place = window @ torch.tensor(
                [2 * c / (width - 1) - 1, 2 * r / (height - 1) - 1, 1.0], dtype=window.dtype
            )
            x, y = (float(place[0]) + 1) * (width - 1) / 2, (float(place[1]) + 1) * (height - 1) / 2
            for j in (math.floor(y), math.floor(y) + 1):
                for i in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < width and 0 <= j < height:
                        total += feature_map[:, j, i] * (1 - abs(x - i)) * (1 - abs(y - j))
    return total / (height * width)


def test_any_window_equals_a_slow_loop() -> None:
    maps = torch.randn(2, 5, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    windows = torch.randn(2, 3, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.6
    found = sample_windows(maps, windows)
    for b in range(2):
        for k in range(3):
            assert relative(found[b, k], slow_window(maps[b], windows[b, k])) < 1e-9


def test_windows_and_maps_get_the_gradient_of_the_plain_reading() -> None:
    """At first places fall on whole columns, where a bilinear reading has two slopes: PyTorch's is taken."""
    maps = images()[:, :, :9, :6].clone().requires_grad_()
    windows = network().generator.last.bias.detach().view(1, 3, 2, 3).repeat(6, 1, 1, 1).requires_grad_()
    mine = sample_windows(maps, windows)
    plain = torch.stack(
        [
            F.grid_sample(
                maps, F.affine_grid(windows[:, k], maps.shape, align_corners=True), align_corners=True
            ).mean(dim=(2, 3))
            for k in range(3)
        ],
        dim=1,
    )
    weights = torch.randn_like(mine)
    for a, b in zip(*(torch.autograd.grad((x * weights).sum(), (maps, windows)) for x in (mine, plain))):
        torch.testing.assert_close(a, b)


def test_at_first_windows_are_stripes() -> None:
    net = network(6)
    windows = net.generator(net.backbone(images()))
    assert torch.allclose(windows[0, :, 1, 2], torch.tensor([-5.0, -3, -1, 1, 3, 5], dtype=torch.float64) / 6)
    assert torch.equal(windows[0], windows[1])


def test_every_patch_has_its_own_convolution_norm_and_classifier() -> None:
    net = network()
    found = net(images())
    assert isinstance(found, PatchFeatures)
    maps = net.backbone(images())
    pooled = sample_windows(maps, net.generator(maps))
    for k in range(3):
        reduced = F.conv2d(pooled[:, k, :, None, None], net.reduction.weight[k][:, :, None, None]).flatten(1)
        normed = F.batch_norm(reduced, None, None, training=True)
        hidden = normed.relu()
        assert relative(found.patches[k], F.normalize(normed)) < 1e-5
        logits = F.linear(hidden, net.classifier.weight[k], net.classifier.bias[k])
        embedding = F.linear(hidden, net.embedding.weight[k], net.embedding.bias[k])
        assert relative(found.logits[k], logits) < 1e-5
        assert relative(found.embedding[:, 2 * k : 2 * k + 2], embedding) < 1e-5


def test_stage_two_compares_with_the_frozen_rows_of_the_embedding() -> None:
    net = network(classes=0)
    found = net(images())
    assert found.logits.numel() == 0
    assert not net.embedding.weight.requires_grad
    rows = F.normalize(net.embedding.weight, dim=2)  # [K, E, D]
    for k in range(3):
        assert (
            relative(found.embedding[:, 2 * k : 2 * k + 2], found.patches[k] @ rows[k].T) < 1e-6
        )  # lengths plus 1e-7


def test_evaluation_gives_the_unit_patches_side_by_side() -> None:
    net = network()
    net(images())
    net.eval()
    features = net(images())
    assert features.shape == (6, 21)
    lengths = features.unflatten(1, (3, 7)).norm(dim=2)
    assert torch.allclose(lengths, torch.ones_like(lengths))
    assert torch.equal(net(images()[:1]), features[:1]), "one image's features must not depend on the others"


def test_windows_shape_the_maps_once_they_are_learned() -> None:
    """The generator's gradient reaches the backbone, and its statistics move in every training pass."""
    net = network()
    maps = net.backbone(images()).detach().requires_grad_()
    net.generator.last.weight.data.normal_()
    net.generator(maps).sum().backward()
    assert bool(maps.grad.any())
    assert net.generator.trunk[1].num_batches_tracked == 1
    net.eval()
    net(images())
    assert net.generator.trunk[1].num_batches_tracked == 1, "evaluation must not move the statistics"


def test_weights_of_stage_one_serve_stage_two() -> None:
    net, other = network(), network(classes=0)
    net.generator.last.weight.data.normal_()
    net(images())
    skipped = load_network(other, net.state_dict(), "stage 1")
    assert skipped == ["classifier.bias", "classifier.weight", "embedding.bias"]
    net.eval(), other.eval()
    assert torch.equal(other(images()), net(images()))


def test_a_map_that_is_too_small_is_told() -> None:
    with pytest.raises(ModelError, match=r"feature map of 2x4 is too small .* needs 3x3: raise INPUT.SIZE"):
        network()(images()[:, :, :4])


def paul_weights(patches: int = 6, channels: int = 5, dim: int = 7, classes: int = 4) -> dict[str, Tensor]:
    """A state_dict with the names and shapes of PAUL's program, from random numbers."""
    seed = torch.Generator().manual_seed(2)
    shapes = {
        "patch_proposal.localization.0": (2 * channels, channels, 3, 3),
        "patch_proposal.localization.1": (2 * channels,),
    }
    shapes |= {"patch_proposal.fc_loc.0": (512, 2 * channels), "patch_proposal.fc_loc.2": (6 * patches, 512)}
    for k in range(patches):
        shapes |= {f"new.down.{k}.0": (dim, channels, 1, 1), f"new.down.{k}.1": (dim,)}
        shapes |= {f"new.fc_list.{k}": (classes, dim), f"new.embedding.{k}": (2, dim)}
    weights = {}
    for name, shape in shapes.items():
        weights[f"{name}.weight"] = torch.randn(shape, generator=seed, dtype=torch.float64)
        weights[f"{name}.bias"] = torch.randn(shape[0], generator=seed, dtype=torch.float64)
        if len(shape) == 1:
            weights[f"{name}.running_mean"] = torch.randn(shape, generator=seed, dtype=torch.float64)
            weights[f"{name}.running_var"] = torch.rand(shape, generator=seed, dtype=torch.float64) + 0.5
    return weights


def test_checkpoints_of_paul_give_its_features() -> None:
    net, weights = network(6, classes=0), paul_weights()
    weights |= {f"backbone.{name}": value for name, value in net.backbone.state_dict().items()}
    load_network(net, weights, "PAUL")
    net.eval()

    def norm(x: Tensor, name: str) -> Tensor:
        numbers = (weights[f"{name}.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *numbers)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    maps, place = net.backbone(images()), "patch_proposal.localization"
    hidden = F.conv2d(maps, weights[f"{place}.0.weight"], weights[f"{place}.0.bias"])
    hidden = F.max_pool2d(norm(hidden, f"{place}.1").relu(), 3, 2, 1).mean(dim=(2, 3))
    theta = linear(linear(hidden, "patch_proposal.fc_loc.0").relu(), "patch_proposal.fc_loc.2").view(
        -1, 6, 2, 3
    )
    features = []
    for k in range(6):
        grid = F.affine_grid(theta[:, k], maps.shape, align_corners=True)
        pooled = F.grid_sample(maps, grid, align_corners=True).mean(dim=(2, 3), keepdim=True)
        down = F.conv2d(pooled, weights[f"new.down.{k}.0.weight"], weights[f"new.down.{k}.0.bias"])
        features.append(F.normalize(norm(down, f"new.down.{k}.1").flatten(1)))
    assert relative(net(images()), torch.cat(features, dim=1)) < 1e-6  # lengths plus 1e-7
