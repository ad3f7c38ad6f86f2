"""The network of meta-learning from several sources: backbone, pooling and a MetaBN neck, no classifier."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from crossreid.modeling.interface import embed
from crossreid.modeling.meta_bn import MetaBatchNorm1d
from crossreid.modeling.pooling import POOLS


class MetaFeatures(NamedTuple):
    """What a training pass gives."""

    pooled: Tensor  # [B, D] before the neck, for the triplet loss
    units: list[Tensor]  # unit rows [B, D] after it: one tensor, or one for each meta-train domain mixed in


class MetaReIDNet(nn.Module):
    """Backbone, pooling and a MetaBN neck.

    Differentiable twice; works under ``torch.func.functional_call``.

    Args:
        backbone: maps images to [B, D, h, w]; has ``out_channels`` = D.
        scale: of MetaBN's draws, "variance" or "std".
        pool: avg or gem.

    Source: Zhao et al. (M3L), CVPR 2021.
    """

    def __init__(
        self, backbone: nn.Module, *, scale: Literal["variance", "std"] = "variance", pool: str = "avg"
    ) -> None:
        super().__init__()
        self.dim = int(backbone.out_channels)  # type: ignore[arg-type]
        self.backbone, self.pool = backbone, POOLS[pool]()
        self.neck = MetaBatchNorm1d(self.dim, scale=scale)

    def forward(
        self, images: Tensor, *, store: int | None = None, mixed: bool = False, lam: float | None = None
    ) -> Tensor | MetaFeatures:
        """Features of images [B, 3, H, W], normalised.

        Args:
            store: training: MetaBN's slot that takes this domain's statistics; None: none.
            mixed: training: mix draws from every stored slot into the features.
            lam: weight of the draws, 0..1; None: drawn.

        Returns:
            In evaluation the neck's output [B, D], the retrieval feature; in training ``MetaFeatures``.
        """
        pooled = embed(self.backbone, self.pool, images)
        if not self.training:
            return self.neck(pooled)
        necks = self.neck.mixed(pooled, lam=lam) if mixed else [self.neck(pooled, store=store)]
        return MetaFeatures(pooled, [F.normalize(neck) for neck in necks])
