"""The network of BAU: an instance-normalised backbone, pooling, a batch-norm neck and a classifier."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from crossreid.modeling.errors import ModelError
from crossreid.modeling.interface import embed, stages_of
from crossreid.modeling.pooling import POOLS


class AlignedOutput(NamedTuple):
    """What a training pass gives of a batch of 2B views, the weak ones first."""

    pooled: Tensor  # [2B, D] before the neck
    units: Tensor  # [2B, D] unit rows after it
    logits: Tensor  # [B, C] of the weak views


def normalise_instances(backbone: nn.Module, stages: int) -> None:
    """Let the first stages after the stem give instance-normalised maps; no parameter is added or renamed."""
    names = stages_of(backbone)
    if stages and not getattr(backbone, "stages_give_maps", True):
        raise ModelError(
            f"BAU.INSTANCE_STAGES {stages} normalises maps, and the stages of {type(backbone).__name__} give tokens: "
            "set it to 0"
        )
    if stages >= len(names):
        raise ModelError(
            f"instance norm after {stages} stages: the backbone has {len(names) - 1}, take fewer"
        )
    for parts in names[1 : 1 + stages]:
        backbone.get_submodule(parts[-1]).register_forward_hook(_instance_norm)


def _instance_norm(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return F.instance_norm(output)


class AlignedNet(nn.Module):
    """Backbone with instance norm after its first stages, pooling, batch-norm neck (bias frozen) and classifier.

    Args:
        backbone: maps images to [B, D, h, w]; has ``out_channels`` = D and ``stage_names``.
        num_classes: C, identities of all sources; 0 leaves the classifier out (for evaluation).
        pool: gem or avg.
        instance_stages: stages that end with an instance norm without parameters.

    Source: Cho et al., BAU, NeurIPS 2024.
    """

    def __init__(
        self, backbone: nn.Module, num_classes: int, *, pool: str = "gem", instance_stages: int = 3
    ) -> None:
        super().__init__()
        self.dim = int(backbone.out_channels)  # type: ignore[arg-type]
        normalise_instances(backbone, instance_stages)
        self.backbone, self.pool, self.neck = backbone, POOLS[pool](), nn.BatchNorm1d(self.dim)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(self.dim, num_classes, bias=False) if num_classes else None
        if self.classifier is not None:
            nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, images: Tensor) -> Tensor | AlignedOutput:
        """Features of images [B, 3, H, W], normalised; in training of both views [2B, 3, H, W].

        Returns:
            In evaluation the neck's output [B, D], the retrieval feature; in training ``AlignedOutput``.
        """
        pooled = embed(self.backbone, self.pool, images)
        neck = self.neck(pooled)
        if not self.training:
            return neck
        assert self.classifier is not None, "a network without a classifier cannot train"
        return AlignedOutput(pooled, F.normalize(neck), self.classifier(neck[: len(neck) // 2]))
