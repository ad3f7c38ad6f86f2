"""The network of the supervised baseline: backbone, pooling, batch-norm neck, classifier; part features if wanted."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crossreid.modeling.errors import ModelError
from crossreid.modeling.interface import embed
from crossreid.modeling.pooling import POOLS, upcast


class StrongOutput(NamedTuple):
    """What a training pass gives, of the whole image first, then of each part."""

    pooled: list[Tensor]  # [B, D] before the neck
    logits: list[Tensor]  # [B, C] after it


class StrongNet(nn.Module):
    """Backbone, pooling, batch-norm neck (its bias frozen) and a bias-free classifier; the same for each part.

    Args:
        backbone: maps images to [B, D, h, w]; has ``out_channels`` = D.
        num_classes: C, identities of all domains; 0 leaves the classifiers out (for evaluation).
        pool: avg or gem.
        parts: features of a ViT's shuffled patches; 0: none.
        feature: neck or pooled, the retrieval feature; with parts theirs stand behind it, each divided by their number.

    Raises:
        ModelError: parts of a backbone that has no tokens to shuffle.

    Source: Luo et al., Bag of Tricks, CVPR-W 2019; the parts: He et al., TransReID, ICCV 2021.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        pool: str = "avg",
        parts: int = 0,
        feature: str = "neck",
    ) -> None:
        super().__init__()
        self.dim = int(backbone.out_channels)  # type: ignore[arg-type]
        self.backbone, self.pool, self.feature = backbone, POOLS[pool](), feature
        self.neck = nn.BatchNorm1d(self.dim)
        self.parts, self.part_necks = None, nn.ModuleList(nn.BatchNorm1d(self.dim) for _ in range(parts))
        if parts:
            if not hasattr(backbone, "jigsaw"):
                raise ModelError(
                    f"SUPERVISED.PARTS {parts} shuffles the patches of a ViT, and {type(backbone).__name__} has none: "
                    "set it to 0"
                )
            whole: Any = backbone
            self.parts = whole.jigsaw(parts)
        for neck in (self.neck, *self.part_necks):
            neck.bias.requires_grad_(False)
        self.classifier = None
        if num_classes:
            layers = [nn.Linear(self.dim, num_classes, bias=False) for _ in range(1 + parts)]
            for layer in layers:
                nn.init.normal_(layer.weight, std=0.001)
            self.classifier = nn.ModuleList(layers)

    def forward(self, images: Tensor, *, cameras: Tensor | None = None) -> Tensor | StrongOutput:
        """Features of images [B, 3, H, W], normalised, of ``cameras`` [B]: rows of the camera embedding.

        Returns:
            In evaluation the retrieval feature [B, D] or, with parts, [B, (1 + P) D]; in training ``StrongOutput``.
        """
        if self.parts is None:
            pooled = [embed(self.backbone, self.pool, images, cameras)]
        else:
            pooled = list(upcast(self.backbone(images, self.pool, self.parts, cameras)).unbind(1))
        if not self.training and self.feature == "pooled":
            return _joined(pooled)
        necks = [neck(x) for neck, x in zip((self.neck, *self.part_necks), pooled)]
        if not self.training:
            return _joined(necks)
        assert self.classifier is not None, "a network without a classifier cannot train"
        return StrongOutput(pooled, [layer(x) for layer, x in zip(self.classifier, necks)])


def _joined(features: list[Tensor]) -> Tensor:
    whole, *parts = features
    return torch.cat([whole, *(part / len(parts) for part in parts)], dim=1)
