"""Backbones of every family, cut down to a few channels, under the names of whole ones."""

from __future__ import annotations

from typing import Any

import pytest
import torchvision
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.efficientnet import EfficientNet, _efficientnet_conf
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.swin_transformer import SwinTransformer

from crossreid.modeling import clip, swin, vit

FAMILIES = {  # name -> overrides that it needs
    "resnet18": [],
    "resnet18_ibn_a": [],
    "mobilenet_v3_small": [],
    "efficientnet_b0": [],
    "convnext_tiny": ["MODEL.LAST_STRIDE", "2"],
    "swin_t": ["MODEL.LAST_STRIDE", "2"],
    "vit_tiny": ["MODEL.DROP_PATH", "0.1"],
    "vit_tiny_ics": [],
    "osnet_x0_25": [],
    "osnet_ain_x0_25": [],
    "solider_swin_tiny": ["MODEL.LAST_STRIDE", "2"],
    "clip_vit_b_16": [],
    "timm:test_vit": [],
    "timm:test_resnet": ["MODEL.LAST_STRIDE", "2"],
}
VARIANTS = ("resnet18_ibn_a", "vit_tiny_ics", "osnet_ain_x0_25")  # of the family before them
WHOLE = torchvision.models.get_model


def _small(name: str, **options: Any) -> Any:
    if name.startswith("resnet"):
        net = ResNet(BasicBlock, [1, 1, 1, 1])
        net.inplanes = 64
        for k in (1, 2, 3, 4):
            setattr(net, f"layer{k}", net._make_layer(BasicBlock, 8 * k, 1, stride=min(k, 2)))
        net.fc.in_features = 32
        return net
    if name.startswith("convnext"):
        return ConvNeXt([CNBlockConfig(8 * k, 8 * k + 8 if k < 4 else None, 1) for k in (1, 2, 3, 4)])
    if name.startswith("efficientnet"):
        setting, last = _efficientnet_conf(name, width_mult=0.2, depth_mult=0.2)
        return EfficientNet(setting, 0.2, last_channel=last)
    if name.startswith("mobilenet"):
        return WHOLE(name, width_mult=0.3, **options)
    if name.startswith("swin"):
        return SwinTransformer([4, 4], 8, [1, 2, 1, 1], [1, 1, 2, 2], [7, 7])
    return WHOLE(name, **options)


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the names lead to small networks."""
    monkeypatch.setattr(torchvision.models, "get_model", _small)
    for name in ("vit_tiny", "vit_small"):
        monkeypatch.setitem(vit.SIZES, name, (24, 4, 2, 16))
    monkeypatch.setitem(clip.SIZES, "clip_vit_b_16", (24, 4, 2, 16, 12))
    for name in ("solider_swin_tiny", "solider_swin_base"):
        monkeypatch.setitem(swin.SIZES, name, (8, (1, 2, 1, 1), (1, 1, 2, 2)))
