"""Backbones by name: which family a name belongs to, and what that family cannot do."""

from __future__ import annotations

import difflib
import functools
from typing import Any, NamedTuple

import torchvision
from torch import nn

from crossreid.modeling import clip, osnet, swin, torchvision_nets, vit
from crossreid.modeling.errors import ModelError
from crossreid.modeling.interface import IMAGENET

RESNETS = ("resnet", "resnext", "wide_resnet")  # with which torchvision's names begin
ICS = "_ics"  # a ViT with the convolutional stem


class Options(NamedTuple):
    """What a backbone is built with, see ``build_backbone``."""

    last_stride: int
    size: tuple[int, int]
    patch_stride: int
    drop_path: float


@functools.cache
def resnets() -> list[str]:
    """torchvision's ResNets by name."""
    return [n for n in torchvision.models.list_models(torchvision.models) if n.startswith(RESNETS)]


def names() -> list[str]:
    """Every backbone by name, without those of timm and of import paths."""
    stems = [f"{name}{ICS}" for name in ("vit_tiny", "vit_small", "vit_base")]
    nets = [*resnets(), *(f"{name}_ibn_a" for name in resnets()), *torchvision_nets.names()]
    return ["tiny", "tiny_half", *nets, *vit.SIZES, *stems, *osnet.NAMES, *swin.SIZES, *clip.SIZES]


def only(name: str, options: Options, **allowed: tuple[Any, ...]) -> None:
    """Refuse what a backbone cannot do: ``allowed`` values by option; no patches and no drop path by default.

    Raises:
        ModelError: another value.
    """
    for option, values in {"patch_stride": (0,), "drop_path": (0.0,), **allowed}.items():
        value = getattr(options, option)
        if values and value not in values:
            wanted = " or ".join(f"{v:g}" for v in values)
            raise ModelError(
                f"MODEL.BACKBONE {name} cannot have MODEL.{option.upper()} {value}: set {wanted}"
            )


def build_family(name: str, options: Options) -> nn.Module:
    """A backbone of any family but ResNet and tiny.

    Raises:
        ModelError: an unknown name, or an option that the family has not.
    """
    if name in osnet.NAMES:
        only(name, options, last_stride=(1,))
        return osnet.named(name)
    if name in swin.SIZES:
        only(name, options, last_stride=(2,), drop_path=())
        return swin.SwinTransformer(*swin.SIZES[name], drop_path=options.drop_path)
    if name in clip.SIZES or name.removesuffix(ICS) in vit.SIZES:
        only(name, options, last_stride=(1,), patch_stride=(), drop_path=())
        return _build_transformer(name, options)
    if name in torchvision_nets.names():
        only(name, options, drop_path=())
        return torchvision_nets.FeatureNet(name, options.last_stride, options.drop_path)
    raise unknown(name)


def unknown(name: str) -> ModelError:
    """The error of a backbone that nobody knows; the nearest known one is named."""
    near = difflib.get_close_matches(name, names(), n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return ModelError(
        f"MODEL.BACKBONE {name!r} is unknown{hint} Known are tiny, tiny_half, resnet*, resnext*, …_ibn_a, convnext_*, "
        "efficientnet_*, mobilenet_*, swin_*, vit_*, osnet_*, solider_swin_*, clip_vit_*, timm:NAME and import paths"
    )


def _build_transformer(name: str, options: Options) -> nn.Module:
    size, step, drop = options.size, options.patch_stride, options.drop_path
    if name in clip.SIZES:
        width, layers, heads, patch, projection = clip.SIZES[name]
        return clip.CLIPVisual(
            size=size, width=width, layers=layers, heads=heads, patch=patch, stride=step,
            projection=projection, drop_path=drop,
        )  # fmt: skip
    dim, depth, heads, patch = vit.SIZES[name.removesuffix(ICS)]
    backbone = vit.ViT(
        size=size, dim=dim, depth=depth, heads=heads, patch=patch, stride=step,
        stem=name.endswith(ICS), drop_path=drop,
    )  # fmt: skip
    if name in vit.OF_TORCHVISION:
        backbone.normalisation = IMAGENET
    return backbone
