"""torchvision's ConvNeXt, EfficientNet, MobileNet and Swin as backbones."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from crossreid.modeling.errors import ModelError
from crossreid.modeling.interface import BaseBackbone
from crossreid.modeling.transformer import rising

FAMILIES = ("convnext_", "efficientnet_", "mobilenet_", "swin_")
FIXED_STRIDE = ("convnext_", "swin_")  # their reductions join patches, no stride can be taken out


def names() -> list[str]:
    """All of them, by torchvision's names."""
    return [name for name in torchvision.models.list_models(torchvision.models) if name.startswith(FAMILIES)]


class FeatureNet(BaseBackbone):
    """The ``features`` of a torchvision network, under torchvision's parameter names.

    Args:
        name: torchvision's.
        last_stride: 1 or 2, of the last reduction.
        drop_path: stochastic depth of the last block; MobileNets have none.

    Raises:
        ModelError: what the family cannot do.
    """

    def __init__(self, name: str, last_stride: int, drop_path: float = 0.0) -> None:
        super().__init__()
        if last_stride == 1 and name.startswith(FIXED_STRIDE):
            raise ModelError(
                f"MODEL.BACKBONE {name} joins 2 x 2 positions before its last stage: set MODEL.LAST_STRIDE 2"
            )
        network = torchvision.models.get_model(name, weights=None)
        self.features = network.features
        dropped = [module for module in self.features.modules() if isinstance(module, StochasticDepth)]
        if drop_path and not dropped:
            raise ModelError(f"MODEL.BACKBONE {name} has no stochastic depth: set MODEL.DROP_PATH 0")
        for module, p in zip(dropped, rising(drop_path, len(dropped))):
            module.p = p
        self.last = name.startswith("swin_")  # channels stand last
        self.norm = network.norm if self.last else nn.Identity()
        self.classifier: nn.Module = nn.Identity()
        if name.startswith("convnext_"):
            self.classifier = nn.Sequential(network.classifier[0])  # its layer norm stands there
        self.stages_give_maps = not self.last
        reductions, self.out_channels = _reductions(self.features, last=self.last)
        if last_stride == 1:
            for index, reduction in enumerate(reductions):
                if reduction == 32:
                    unstride(self.features[index])
        self.stride = 16 * last_stride
        self.stage_names = _stages(reductions)

    def maps(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] to maps [B, D, h, w]."""
        return self.classifier(self._features(images))

    def vector(self, images: Tensor, pool: nn.Module) -> Tensor:
        """The pooled map [B, D]; ConvNeXt's norm comes after the pooling, as in torchvision."""
        return self.classifier(pool(self._features(images))[:, :, None, None])[:, :, 0, 0]

    def fitted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights by today's names: MobileNetV2 was flatter in old torchvision."""
        old = any(re.match(r"features\.2\.conv\.7\.", name) for name in weights)
        return {_nested(name) if old else name: value for name, value in weights.items()}

    def _features(self, images: Tensor) -> Tensor:
        x = self.norm(self.features(images))
        return x.permute(0, 3, 1, 2) if self.last else x


def _nested(name: str) -> str:
    """An old name of MobileNetV2 to today's: convolution, norm and activation are one module now."""
    match = re.match(r"features\.(\d+)\.conv\.(\d+)\.(.*)", name)
    if match is None:
        return name
    block, place, rest = match.groups()
    places = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}
    if block == "1":  # the only one that does not widen
        places |= {"3": "1", "4": "2"}
    return f"features.{block}.conv.{places.get(place, place)}.{rest}"


@torch.no_grad()
def _reductions(features: nn.Sequential, *, last: bool) -> tuple[list[int], int]:
    """Pixels a cell of each module's output, and the channels of the last; ``last``: channels stand last."""
    mode, x, found = features.training, torch.zeros(1, 3, 64, 64), []
    features.eval()
    for module in features:
        x = module(x)
        found.append(64 // x.shape[1 if last else 2])
    features.train(mode)
    return found, x.shape[3 if last else 1]


def _stages(reductions: list[int]) -> tuple[tuple[str, ...], ...]:
    """The stem (the first module and all at half the size), then the modules of 1/4, 1/8, 1/16 and 1/32."""
    stem = tuple(f"features.{k}" for k, r in enumerate(reductions) if k == 0 or r == 2)
    rest = [
        tuple(f"features.{k}" for k, r in enumerate(reductions) if k and r == size) for size in (4, 8, 16, 32)
    ]
    return (stem, *rest)


def unstride(module: nn.Module) -> None:
    """Take the stride out of a stage's convolutions."""
    for inner in module.modules():
        if isinstance(inner, nn.Conv2d) and inner.stride == (2, 2):
            inner.stride = (1, 1)
