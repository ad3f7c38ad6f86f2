"""Backbones: strides, IBN-a, weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from crossreid.modeling import ModelError
from crossreid.modeling.backbones import IBN, build_backbone
from crossreid.modeling.reid import ReIDNet, ReIDOutput


@pytest.mark.parametrize(
    ("name", "stride", "channels", "reduction"),
    [("tiny", 1, 256, 8), ("tiny_half", 2, 128, 16), ("tiny", 2, 256, 16),
     ("resnet18", 1, 512, 16), ("resnet18", 2, 512, 32),
     ("resnet34", 1, 512, 16), ("resnet50", 1, 2048, 16), ("resnet50", 2, 2048, 32), ("resnet50_ibn_a", 1, 2048, 16)],
)  # fmt: skip
def test_feature_map(name: str, stride: int, channels: int, reduction: int) -> None:
    backbone = build_backbone(name, last_stride=stride).eval()
    maps = backbone(torch.randn(1, 3, 64, 32))
    assert (backbone.out_channels, backbone.stride) == (channels, reduction)
    assert maps.shape == (1, channels, 64 // reduction, 32 // reduction)


def test_resnet_with_stride_2_is_torchvision_s() -> None:
    torch.manual_seed(0)
    reference = torchvision.models.resnet18(weights=None).eval()
    backbone = build_backbone("resnet18", last_stride=2).eval()
    backbone.load_state_dict({k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")})
    images = torch.randn(2, 3, 64, 32)
    pooled = backbone(images).mean((2, 3))
    torch.testing.assert_close(reference.fc(pooled), reference(images))


def test_ibn_normalises_the_first_half_by_image() -> None:
    torch.manual_seed(0)
    layer = IBN(6).double().train()
    x = torch.randn(4, 6, 5, 3, dtype=torch.float64) * 3 + 1
    out = layer(x)
    by_image = (x[:, :3] - x[:, :3].mean((2, 3), keepdim=True)) / (
        x[:, :3].var((2, 3), unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    by_batch = (x[:, 3:] - x[:, 3:].mean((0, 2, 3), keepdim=True)) / (
        x[:, 3:].var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(out, torch.cat([by_image, by_batch], 1))
    norms = [m for m in build_backbone("resnet50_ibn_a").modules() if isinstance(m, IBN)]
    assert len(norms) == 3 + 4 + 6  # stages 1 to 3


def test_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = torchvision.models.resnet18(weights=None)
    weights = {f"module.{k}": v for k, v in source.state_dict().items() if "num_batches" not in k}
    torch.save({"state_dict": weights}, tmp_path / "theirs.pth")
    backbone = build_backbone("resnet18", pretrained=str(tmp_path / "theirs.pth"))
    assert torch.equal(backbone.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    with pytest.raises(ModelError, match=r"another architecture.*first layer1\.0\.conv1\.weight"):
        build_backbone("resnet50", pretrained=str(tmp_path / "theirs.pth"))


def test_missing_weights_name_the_file_to_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))

    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ModelError, match=r"resnet18.*place https://.* at .*checkpoints/resnet18-.*\.pth"):
        build_backbone("resnet18", pretrained="imagenet")
    with pytest.raises(ModelError, match="tiny has no ImageNet weights"):
        build_backbone("tiny", pretrained="imagenet")
    with pytest.raises(ModelError, match=r"resnet50 .*place https://.*resnet50-"):
        build_backbone("resnet50_ibn_a", pretrained="imagenet")
    with pytest.raises(ModelError, match="torchvision has no ImageNet weights of osnet_x0_25"):
        build_backbone("osnet_x0_25", pretrained="imagenet")


def test_ibn_starts_from_the_plain_network_s_weights(
    monkeypatch: pytest.MonkeyPatch, told: Callable[[], str]
) -> None:
    """What fits is copied, the instance norms and their batch-normed halves start anew, as in M3L."""
    torch.manual_seed(0)
    plain = torchvision.models.resnet18(weights=None).state_dict()
    plain["layer1.0.bn1.weight"].fill_(7.0)
    plain["layer1.0.bn2.weight"].fill_(7.0)
    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", lambda *_, **__: dict(plain))
    backbone = build_backbone("resnet18_ibn_a", pretrained="imagenet")
    assert torch.equal(backbone.layer3[1].conv2.weight, plain["layer3.1.conv2.weight"])
    assert torch.equal(backbone.layer1[0].bn2.weight, plain["layer1.0.bn2.weight"])
    assert torch.equal(backbone.layer1[0].bn1.IN.weight, torch.ones(32))
    assert torch.equal(backbone.layer1[0].bn1.BN.weight, torch.ones(32))
    assert "loaded 76 of 112 tensors; not in the file: layer1.0.bn1.IN.weight" in told()


def test_network_halves_and_retrieval_feature() -> None:
    torch.manual_seed(0)
    network = ReIDNet(build_backbone("tiny"), 5)
    images = torch.randn(8, 3, 32, 16)
    joint, alone = network(images, joint=True), network(images)
    assert isinstance(joint, ReIDOutput)
    assert (joint.source.shape, joint.target.shape, joint.logits.shape) == ((4, 256), (4, 256), (4, 5))
    assert (alone.source.shape, alone.target.shape, alone.logits.shape) == ((8, 256), (0, 256), (8, 5))
    torch.testing.assert_close(joint.logits, joint.source @ network.classifier.weight.T)
    network.eval()
    with torch.no_grad():
        pooled = network.embed(images)
        expected = nn.functional.batch_norm(
            pooled,
            network.neck.running_mean,
            network.neck.running_var,
            network.neck.weight,
            network.neck.bias,
        )
        torch.testing.assert_close(network(images), expected)
    assert not network.neck.bias.requires_grad
