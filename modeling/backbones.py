"""Backbones: torchvision's ResNets with a choosable last stride, their IBN-a variants, and a small one for CPUs."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from crossreid.modeling.errors import ModelError
from crossreid.modeling.families import Options, build_family, only, resnets
from crossreid.modeling.ibn import IBN
from crossreid.modeling.interface import IMAGENET
from crossreid.modeling.timm_nets import TimmNet
from crossreid.modeling.torchvision_nets import unstride
from crossreid.modeling.weights import load_backbone


class Backbone(nn.Module):
    """A ResNet without its pooling and classifier.

    Args:
        resnet: gives the layers.
        last_stride: 1 or 2, of the last stage.
    """

    stage_names = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
    normalisation = IMAGENET

    def __init__(self, resnet: ResNet, last_stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4
        if last_stride == 1:
            unstride(self.layer4)
        self.out_channels, self.stride = int(resnet.fc.in_features), 16 * last_stride

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W], normalised, to feature maps [B, out_channels, H/s, W/s], s = 16 or 32."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


TINY = {"tiny": (32, 64, 128, 256), "tiny_half": (16, 32, 64, 128)}  # channels of the stages


class TinyBackbone(nn.Module):
    """A small residual network to be trained from scratch on CPUs: [B, 3, H, W] to [B, D, H/s, W/s], s = 8 or 16.

    Args:
        last_stride: 1 or 2, of the last stage.
        widths: channels of the four stages; the last is D.
    """

    stage_names = (("stem",), ("stages.0",), ("stages.1",), ("stages.2",), ("stages.3",))

    def __init__(self, last_stride: int, widths: tuple[int, int, int, int] = TINY["tiny"]) -> None:
        super().__init__()
        first, strides = widths[0], (2, 1, 2, last_stride)
        self.out_channels, self.stride = widths[-1], 8 * last_stride
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.Sequential(
            *(_basic_block(a, b, s) for a, b, s in zip((first, *widths[:-1]), widths, strides, strict=True))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def sequence(self) -> list[nn.Module]:
        """What images pass through, in order; the last is the last stage."""
        return [self.stem, *self.stages]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.stages(self.stem(images))


def _basic_block(channels: int, width: int, stride: int) -> BasicBlock:
    shortcut = None
    if stride != 1 or channels != width:
        shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    return BasicBlock(channels, width, stride, shortcut)


def build_backbone(
    name: str,
    *,
    last_stride: int = 1,
    pretrained: str = "none",
    size: Sequence[int] = (256, 128),
    patch_stride: int = 0,
    drop_path: float = 0.0,
    cameras: torch.Tensor | None = None,
    sie_weight: float = 3.0,
) -> Any:
    """A backbone by name.

    Args:
        name: one of ``families.names()``; ``timm:NAME``; or the import path of a module with ``build(last_stride)``
            that gives a module with ``forward``, ``out_channels``, ``stride`` and ``stage_names``: the names of the
            submodules of the stem and of each stage.
        last_stride: 1 or 2, of the last stage.
        pretrained: none, imagenet (torchvision's weights, downloaded or from its cache), or a file's path.
        size: height and width of the images, pixels; transformers are made for it.
        patch_stride: of a ViT, pixels between patches; below the patch's size they overlap; 0: the patch's size.
        drop_path: of a transformer, EfficientNet or ConvNeXt: probability that the last block is left out.
        cameras: [C, 2] that a ViT learns an embedding of, see ``side_information``; None: none.
        sie_weight: of that embedding.

    Raises:
        ModelError: an unknown name, what a backbone cannot do, or weights that are missing or do not fit.
    """
    options = Options(last_stride, (size[0], size[1]), patch_stride, drop_path)
    if name.startswith("timm:"):
        only(name, options, drop_path=())
        known = pretrained == "imagenet"
        backbone: Any = TimmNet(
            name[5:], options.size, last_stride=last_stride, pretrained=known, drop_path=drop_path
        )
        pretrained = "none" if known else pretrained
    elif "." in name:
        only(name, options)
        backbone = _build_outside(name, last_stride)
    elif name in TINY:
        only(name, options)
        if pretrained == "imagenet":
            raise ModelError(
                f"MODEL.BACKBONE {name} has no ImageNet weights: set MODEL.PRETRAINED none (or a path)"
            )
        backbone = TinyBackbone(last_stride, TINY[name])
    elif (base := name.removesuffix("_ibn_a")) in resnets():
        only(name, options)
        backbone = Backbone(torchvision.models.get_model(base, weights=None), last_stride)
        if name != base:
            _instance_normalise(backbone)
    else:
        backbone = build_family(name, options)
    if cameras is not None:
        if not hasattr(backbone, "know_cameras"):
            raise ModelError(
                f"MODEL.BACKBONE {name} has no camera embedding: set MODEL.SIE false, or take a ViT such as vit_small"
            )
        backbone.know_cameras(cameras)
        backbone.sie_weight = sie_weight
    if pretrained != "none":
        load_backbone(backbone, name, pretrained)
    return backbone


def _build_outside(name: str, last_stride: int) -> nn.Module:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        raise ModelError(
            f"MODEL.BACKBONE {name}: Python finds no module {error.name}; add the folder that holds it to PYTHONPATH"
        ) from None
    if not hasattr(module, "build"):
        raise ModelError(f"MODEL.BACKBONE {name}: {module.__file__} lacks build(last_stride)")
    backbone: nn.Module = module.build(last_stride)
    missing = [part for part in ("out_channels", "stride", "stage_names") if not hasattr(backbone, part)]
    if missing:
        raise ModelError(f"MODEL.BACKBONE {name}: its network lacks {', '.join(missing)}")
    return backbone


def _instance_normalise(backbone: Backbone) -> None:
    """IBN-a: the first norm of every block of the stages 1 to 3."""
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3):
        for block in stage:
            block.bn1 = IBN(block.bn1.num_features)
