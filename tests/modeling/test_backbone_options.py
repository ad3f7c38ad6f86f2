"""Keys of backbones: pooling, drop path, patch stride, which families refuse them; how much a file must hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from crossreid.modeling import ModelError, families
from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.strong_net import StrongNet
from crossreid.modeling.transformer import Block, rising
from tests.small_nets import shrink

IMAGES = (2, 3, 64, 32)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    torch.manual_seed(0)


@pytest.mark.parametrize(
    "name",
    ["resnet50", "resnext50_32x4d", "wide_resnet50_2", "resnet101_ibn_a", "convnext_tiny", "efficientnet_b0"]
    + ["mobilenet_v2", "mobilenet_v3_large", "swin_t", "vit_b_16", "vit_small", "vit_base_ics", "osnet_x1_0"]
    + ["osnet_x0_25", "osnet_ain_x1_0", "osnet_ibn_x1_0", "solider_swin_base", "clip_vit_l_14"],
)
def test_every_family_has_its_names(name: str) -> None:
    assert name in families.names()


@pytest.mark.parametrize(
    ("name", "option", "value", "allowed"),
    [
        ("resnet18", "patch_stride", 12, "0"),
        ("resnet18", "drop_path", 0.1, "0"),
        ("osnet_x0_25", "last_stride", 2, "1"),
        ("osnet_x0_25", "drop_path", 0.1, "0"),
        ("vit_tiny", "last_stride", 2, "1"),
        ("solider_swin_tiny", "last_stride", 1, "2"),
        ("solider_swin_tiny", "patch_stride", 2, "0"),
        ("tiny", "drop_path", 0.1, "0"),
    ],
)
def test_what_a_family_cannot_do_is_refused(name: str, option: str, value: Any, allowed: str) -> None:
    told = rf"MODEL\.BACKBONE {name} cannot have MODEL\.{option.upper()} {value}: set {allowed}"
    with pytest.raises(ModelError, match=told):
        build_backbone(name, **{"last_stride": 2 if "swin" in name else 1, option: value})


def test_the_stem_keeps_its_patches_and_an_unknown_name_its_neighbour() -> None:
    with pytest.raises(ModelError, match="patches 16 pixels apart, not 12"):
        build_backbone("vit_tiny_ics", size=(64, 32), patch_stride=12)
    with pytest.raises(ModelError, match=r"osnet_x1_1' is unknown; did you mean osnet_x1_0\?"):
        build_backbone("osnet_x1_1")


@pytest.mark.parametrize("pool", ["avg", "gem"])
@pytest.mark.parametrize(
    "name", ["resnet18", "efficientnet_b0", "vit_tiny", "clip_vit_b_16", "solider_swin_tiny"]
)
def test_pooling_by_hand(name: str, pool: str) -> None:
    """Of maps the mean or generalised mean; of tokens the class token, with GeM plus that of the patches."""
    stride = 2 if name == "solider_swin_tiny" else 1
    net = StrongNet(
        build_backbone(name, size=(64, 32), last_stride=stride), 0, pool=pool, feature="pooled"
    ).eval()
    images = torch.randn(IMAGES)
    with torch.no_grad():
        found, maps = net(images), net.backbone(images)
        mean = maps.clamp_min(1e-6).pow(3).mean((2, 3)).pow(1 / 3) if pool == "gem" else maps.mean((2, 3))
        if name.startswith(("vit", "clip")):
            token = StrongNet(net.backbone, 0, feature="pooled").eval()(images)
            mean = token + mean if pool == "gem" else token
    torch.testing.assert_close(found, mean)


def test_patches_overlap() -> None:
    net = build_backbone("vit_tiny", size=(64, 32), patch_stride=12).eval()
    assert net(torch.randn(IMAGES)).shape == (2, 24, 5, 2)  # (64 - 16) / 12 + 1 rows


def test_drop_path_leaves_out_whole_images_and_rises() -> None:
    """A row of a block's output is its input, or the input plus twice the branch at probability 0.5."""
    assert rising(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3])
    block = Block(8, 2, drop_path=0.5)
    nn.init.zeros_(block.mlp.fc2.weight)
    nn.init.zeros_(block.mlp.fc2.bias)
    x = torch.randn(64, 3, 8)
    with torch.no_grad():
        branch = block.attn(block.norm1(x))
        change = block.train()(x) - x
        torch.testing.assert_close(block.eval()(x), x + branch)
    dropped = change.flatten(1).abs().sum(1) == 0
    assert 16 < int(dropped.sum()) < 48
    torch.testing.assert_close(change[~dropped], 2 * branch[~dropped])


@pytest.mark.parametrize(("share", "enough"), [(0.93, True), (0.87, False)])
def test_a_file_must_hold_nine_tenths(share: float, enough: bool, tmp_path: Path) -> None:
    weights = build_backbone("resnet18").state_dict()
    whole = sum(v.numel() for k, v in weights.items() if not k.endswith("num_batches_tracked"))
    left, kept = (1 - share) * whole, dict(weights)
    for name in sorted(weights, key=lambda n: weights[n].numel()):
        if weights[name].numel() <= left and not name.endswith("num_batches_tracked"):
            left -= kept.pop(name).numel()
    torch.save(kept, tmp_path / "part.pth")
    if enough:
        build_backbone("resnet18", pretrained=str(tmp_path / "part.pth"))
        return
    with pytest.raises(ModelError, match="is of another architecture"):
        build_backbone("resnet18", pretrained=str(tmp_path / "part.pth"))
