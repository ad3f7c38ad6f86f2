"""What every backbone is to the methods: maps, one vector an image, stages, and what its weights were trained with."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from crossreid.modeling.errors import ModelError
from crossreid.modeling.pooling import POOLS, upcast

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std of RGB in 0..1
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: Normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP: Normalisation = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class BaseBackbone(nn.Module):
    """A network without its classifier.

    A subclass sets the attributes and implements ``maps``; one whose vector is more than its pooled map (a class token,
    a layer behind the pooling) implements ``vector``, too. A backbone from outside the tree need not inherit: a module
    that maps images to [B, D, h, w] and has the first three attributes will do.

    Attributes:
        stage_names: the submodules of the stem, then those of each stage, for freezing and recomputation.
        out_channels: D, of map and vector.
        stride: pixels from one cell of the map to the next.
        normalisation: mean and std of RGB in 0..1 that its usual weights were trained with.
        stages_give_maps: every stage gives [B, C, h, w]; False: tokens.
    """

    stage_names: tuple[tuple[str, ...], ...]
    out_channels: int
    stride: int
    normalisation: Normalisation = IMAGENET
    stages_give_maps = True

    def maps(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], normalised, to maps [B, D, h, w]."""
        raise NotImplementedError

    def vector(self, images: Tensor, pool: nn.Module) -> Tensor:
        """Images [B, 3, H, W], normalised, to features [B, D]; ``pool`` takes a map to a vector."""
        return pool(self.maps(images))

    def fitted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a file, changed to this network's grid and names where they differ by design."""
        return dict(weights)

    def forward(self, images: Tensor, pool: nn.Module | None = None) -> Tensor:
        """Images [B, 3, H, W], normalised, to maps [B, D, h, w]; with ``pool`` to features [B, D], at least float32."""
        return self.maps(images) if pool is None else upcast(self.vector(images, pool))


def embed(backbone: nn.Module, pool: nn.Module, images: Tensor, cameras: Tensor | None = None) -> Tensor:
    """Features [B, D], at least float32, of images [B, 3, H, W]: the backbone's own vector, or its pooled map.

    Args:
        cameras: [B] rows of the backbone's camera embedding, where it has one.
    """
    if cameras is not None:
        return backbone(images, pool, cameras=cameras)
    if hasattr(backbone, "vector"):
        return backbone(images, pool)
    return upcast(pool(backbone(images)))


class Pooled(nn.Module):
    """A backbone that is called for its vector.

    Args:
        backbone: a ``BaseBackbone``.
        pool: avg or gem.
    """

    def __init__(self, backbone: BaseBackbone, pool: str = "avg") -> None:
        super().__init__()
        self.backbone, self.pool = backbone, POOLS[pool]()

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, D]."""
        return self.backbone(images, self.pool)


def four_stages(names: list[str]) -> list[tuple[str, ...]]:
    """Blocks in their order, in four stages of about the same number; fewer blocks, fewer stages."""
    cuts = sorted({round(k * len(names) / 4) for k in range(5)})
    return [tuple(names[a:b]) for a, b in itertools.pairwise(cuts)]


def strict(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights of exactly this network.

    Raises:
        ModelError: names or shapes that differ.
    """
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise ModelError(" ".join(str(error).split())[:300]) from None


def stages_of(backbone: nn.Module) -> tuple[tuple[str, ...], ...]:
    """The names of a backbone's submodules: of the stem, then of each stage."""
    names: Any = backbone.stage_names
    return tuple(names)
