"""The network of exemplar-memory invariance: frozen early layers, a wide embedding and two branches."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from crossreid.modeling.errors import ModelError
from crossreid.modeling.interface import embed, stages_of
from crossreid.modeling.pooling import POOLS, upcast


class ECNOutput(NamedTuple):
    """What a training pass gives; the target's parts are empty for a batch of the source alone."""

    logits: torch.Tensor  # [B, C] of the source images
    exemplars: torch.Tensor  # [B, E] embedding of the target images for the memory, after dropout
    source: torch.Tensor  # [B, D] retrieval features of the source images
    target: torch.Tensor  # [B, D] and of the target images


class ECNNet(nn.Module):
    """Backbone, pooling (the retrieval feature), embedding with batch norm, source classifier.

    The source branch is ReLU, dropout, classifier; the target branch is L2 normalisation, dropout.

    Args:
        backbone: maps images to [B, D, h, w].
        num_classes: C, identities of the source; 0 leaves the classifier out (for evaluation).
        embedding: E.
        dropout: probability, in both branches.
        frozen_stages: first stages of the backbone (of three) whose weights do not train and whose batch norms stay in
            evaluation mode.
        shortcut_norms: of these stages' shortcuts: ``frozen`` like the others, or ``batch``: they normalise with the
            batch and move their running statistics, as in the published program.
        pool: avg or gem.

    Raises:
        ModelError: more frozen stages than the backbone names.

    Source: Zhong et al., Invariance Matters, CVPR 2019, section 3.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        embedding: int = 4096,
        dropout: float = 0.5,
        frozen_stages: int = 3,
        shortcut_norms: str = "frozen",
        pool: str = "avg",
    ) -> None:
        super().__init__()
        self.backbone, self.pool, self.dropout = backbone, POOLS[pool](), dropout
        channels: int = backbone.out_channels  # type: ignore[assignment]
        self.embedding = nn.Linear(channels, embedding)
        self.norm = nn.BatchNorm1d(embedding)
        self.classifier = nn.Linear(embedding, num_classes) if num_classes else None
        nn.init.kaiming_normal_(self.embedding.weight, mode="fan_out")
        nn.init.zeros_(self.embedding.bias)
        if self.classifier is not None:
            nn.init.normal_(self.classifier.weight, std=0.001)
            nn.init.zeros_(self.classifier.bias)
        names = stages_of(backbone)
        if frozen_stages > len(names):
            raise ModelError(
                f"ECN.FROZEN_STAGES {frozen_stages}: this backbone names {len(names)} stages, lower it"
            )
        stages = names[:frozen_stages]
        self._frozen = tuple(name for stage in stages for name in stage)
        self._shortcut_norms = shortcut_norms
        for name in self._frozen:
            backbone.get_submodule(name).requires_grad_(False)

    def train(self, mode: bool = True) -> ECNNet:
        """Set the mode of everything but the frozen stages, which stay in evaluation mode."""
        super().train(mode)
        for name in self._frozen:  # by name: SyncBN conversion replaces modules
            stage = self.backbone.get_submodule(name).eval()
            if self._shortcut_norms == "batch":
                for inner, module in stage.named_modules():
                    if inner.endswith("downsample.1"):
                        module.train(mode)
        return self

    def new_layers(self) -> list[nn.Parameter]:
        """Randomly initialised parameters, whatever the backbone starts from."""
        return [p for name, p in self.named_parameters() if not name.startswith("backbone.")]

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Pooled features, at least float32: [B, 3, H, W] to [B, D]."""
        return embed(self.backbone, self.pool, images)

    def forward(
        self, images: torch.Tensor, target: torch.Tensor | None = None, *, joint: bool = False
    ) -> torch.Tensor | ECNOutput:
        """Features of images [B, 3, H, W], normalised.

        Args:
            images: of the source in training.
            target: of the target [B', 3, H, W]; None trains the source branch alone.
            joint: batch norm sees both domains together, not each by itself.

        Returns:
            In evaluation the L2-normalised pooled features [B, D]; in training ``ECNOutput``.
        """
        if not self.training:
            return F.normalize(self.embed(images))
        assert self.classifier is not None, "a network without a classifier cannot train"
        if target is None:
            pooled, wide = self._features(images)
            foreign, far = pooled[:0], wide[:0]
        elif joint:
            sizes = [len(images), len(target)]
            both, all_wide = self._features(torch.cat([images, target]))
            (pooled, foreign), (wide, far) = both.split(sizes), all_wide.split(sizes)
        else:
            pooled, wide = self._features(images)
            foreign, far = self._features(target)
        logits = self.classifier(self._drop(F.relu(wide)))
        exemplars = self._drop(F.normalize(far))
        return ECNOutput(logits, exemplars, F.normalize(pooled), F.normalize(foreign))

    def _features(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pooled features [B, D] and their embedding [B, E], at least float32."""
        pooled = self.embed(images)
        wide = self.norm(self.embedding(pooled))
        return pooled, upcast(wide)

    def _drop(self, features: torch.Tensor) -> torch.Tensor:
        return F.dropout(features, self.dropout, self.training)
