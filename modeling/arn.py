"""ARN: encoders that share all but their last stage, one for both domains and a private one each, and a decoder."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crossreid.modeling.disentangler import check_size, pooled_features
from crossreid.modeling.errors import ModelError

STAGES = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
DROPOUT = 0.5  # of the classifier


class DomainOutput(NamedTuple):
    """What a training pass gives of one domain."""

    logits: Tensor  # [B, C]
    shared: Tensor  # [B, D] features that both domains have
    private: Tensor  # [B, D] features of the domain's own
    images: Tensor  # [B, 3, H, W] decoded, in -1..1


class AdaptationNet(nn.Module):
    """A backbone, whose features retrieve, private last stages for source and target, a decoder and a classifier.

    Each domain passes by itself. The published program runs a last stage twice a step, for its map and for its pooled
    feature, which moves its running statistics twice; one pass at the momentum of two does the same.

    Args:
        identity: a ResNet or the tiny backbone, maps images to [B, D, h, w]; its early stages serve all encoders.
        decoder: maps [B, D, h, w] to [B, 3, H, W] in -1..1.
        num_classes: C, identities of the source.
        pool: max or avg, from maps to features.

    Raises:
        ModelError: a backbone without such stages.

    Source: Li et al., Adaptation and Re-Identification Network (ARN), CVPR-W 2018.
    """

    def __init__(
        self, identity: nn.Module, decoder: nn.Module, num_classes: int, *, pool: str = "avg"
    ) -> None:
        super().__init__()
        self.identity, self.decoder, self.pool = identity, decoder, pool
        last = stages_of(identity)[-1]
        for module in last.modules():
            if isinstance(module, nn.BatchNorm2d) and module.momentum is not None:
                module.momentum = 1 - (1 - module.momentum) ** 2
        self.private = nn.ModuleDict({domain: copy.deepcopy(last) for domain in ("source", "target")})
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(int(identity.out_channels), num_classes)  # type: ignore[arg-type]

    def forward(
        self, images: Tensor, target: Tensor | None = None
    ) -> Tensor | tuple[DomainOutput, DomainOutput | None]:
        """Features of images [B, 3, H, W], normalised; in training what each domain gives.

        Args:
            images: in training, the source's.
            target: [B, 3, H, W] the target's, which pass first; None: the source alone.

        Returns:
            In evaluation features [B, D]; in training the source's and the target's ``DomainOutput``.

        Raises:
            ModelError: in training, a size that the stride does not divide.
        """
        if not self.training:
            return pooled_features(self.identity(images), self.pool)
        check_size(images, int(self.identity.stride))  # type: ignore[arg-type]
        other = None if target is None else self.encode(target, "target")
        own = self.encode(images, "source")
        if other is None:  # DDP wants a gradient for every parameter, if only zero
            idle = torch.stack([p.sum() for p in self.private["target"].parameters()]).sum()
            own = own._replace(images=own.images + 0 * idle)
        return own, other

    def encode(self, images: Tensor, domain: str) -> DomainOutput:
        """The features, logits and decoded images of one domain's images [B, 3, H, W]."""
        maps, private = self.maps(images, domain)
        shared = pooled_features(maps, self.pool)
        logits = self.classifier(self.dropout(shared))
        return DomainOutput(logits, shared, pooled_features(private, self.pool), self.decoder(maps + private))

    def maps(self, images: Tensor, domain: str) -> tuple[Tensor, Tensor]:
        """Shared and private maps [B, D, h, w]."""
        *early, last = stages_of(self.identity)
        for stage in early:
            images = stage(images)
        return last(images), self.private[domain](images)

    @torch.no_grad()
    def swapped(self, images: Tensor, *, target: bool) -> Tensor:
        """Every shared map with every private map, decoded, in 0..1 [N, N, 3, H, W], of images of one domain."""
        maps, private = self.maps(images, "target" if target else "source")
        decoded = [self.decoder(one.expand_as(private) + private) for one in maps.split(1)]
        return (torch.stack(decoded) + 1) / 2


def stages_of(backbone: nn.Module) -> list[nn.Module]:
    """The stages of a backbone in their order; the last is the one that encoders do not share."""
    if hasattr(backbone, "sequence"):
        outside: Any = backbone
        return list(outside.sequence())
    if missing := [name for name in STAGES if not hasattr(backbone, name)]:
        raise ModelError(
            f"DISENTANGLE.VARIANT arn splits a backbone before its last stage, and {type(backbone).__name__} has no "
            f"{missing[0]}: set MODEL.BACKBONE to a ResNet or tiny"
        )
    return [getattr(backbone, name) for name in STAGES]
