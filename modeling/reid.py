"""The re-identification network: backbone, pooling, batch-norm neck, classifier."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from crossreid.modeling.interface import embed
from crossreid.modeling.pooling import POOLS
from crossreid.modeling.split_norm import SplitBatchNorm1d


class ReIDOutput(NamedTuple):
    """What a training pass gives; ``target`` is empty for a batch of the source alone."""

    source: torch.Tensor  # [B/2, D] neck output of the source (or mixed) half
    target: torch.Tensor  # [B/2, D] neck output of the target half
    logits: torch.Tensor  # [B/2, C] of the source half


class ReIDNet(nn.Module):
    """Backbone, pooling, split batch-norm neck (its bias frozen) and a bias-free classifier.

    Source: Luo et al., Bag of Tricks (BNNeck), CVPR-W 2019; the split neck is Luo et al., ECCV 2020.

    Args:
        backbone: maps images to [B, D, h, w]; has ``out_channels`` = D.
        num_classes: C, identities of the source; 0 leaves the classifier out (for evaluation).
        sync_neck: neck statistics over the images of all ranks.
        pool: avg or gem.
    """

    def __init__(
        self, backbone: nn.Module, num_classes: int, *, sync_neck: bool = False, pool: str = "avg"
    ) -> None:
        super().__init__()
        self.dim = int(backbone.out_channels)  # type: ignore[arg-type]
        self.backbone, self.pool = backbone, POOLS[pool]()
        self.neck = SplitBatchNorm1d(self.dim, sync=sync_neck)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(self.dim, num_classes, bias=False) if num_classes else None

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Pooled features before the neck, at least float32: [B, 3, H, W] to [B, D]."""
        return embed(self.backbone, self.pool, images)

    def forward(self, images: torch.Tensor, *, joint: bool = False) -> torch.Tensor | ReIDOutput:
        """Features of images [B, 3, H, W], normalised; with ``joint`` the first half of a batch is the source's.

        Returns:
            In evaluation the neck's output [B, D], the retrieval feature; in training ``ReIDOutput``.
        """
        pooled = self.embed(images)
        if not self.training:
            return self.neck.whole(pooled)
        assert self.classifier is not None, "a network without a classifier cannot train"
        if joint:
            source, target = self.neck(pooled)
        else:
            source, target = self.neck.whole(pooled), pooled[:0]
        return ReIDOutput(source, target, self.classifier(source))
