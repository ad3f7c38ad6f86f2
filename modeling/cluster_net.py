"""The network of the clustering methods: backbone, pooling and a batch-norm neck; no classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossreid.modeling.batch_groups import DomainNorm, separate_domains
from crossreid.modeling.interface import embed
from crossreid.modeling.pooling import POOLS
from crossreid.modeling.split_norm import SplitBatchNorm1d


class ClusterNet(nn.Module):
    """Backbone, pooling, batch-norm neck (its bias frozen) and unit length.

    Args:
        backbone: maps images to [B, D, h, w]; has ``out_channels`` = D.
        pool: gem or avg.
        norm: of joint batches: shared (one for both domains), split (the neck alone takes the statistics of each half),
            or domain (every batch norm of the network has weights and statistics for each domain).

    Source: Dai et al., Cluster Contrast, ACCV 2022.
    """

    def __init__(self, backbone: nn.Module, *, pool: str = "gem", norm: str = "shared") -> None:
        super().__init__()
        self.dim = int(backbone.out_channels)  # type: ignore[arg-type]
        self.backbone, self.pool = backbone, POOLS[pool]()
        self.neck = SplitBatchNorm1d(self.dim) if norm == "split" else nn.BatchNorm1d(self.dim)
        self.neck.bias.requires_grad_(False)
        if norm == "domain":
            separate_domains(self)

    def forward(self, images: Tensor, *, joint: bool = False, cameras: Tensor | None = None) -> Tensor:
        """Features of images [B, 3, H, W], normalised; with ``joint`` the first half of a batch is the source's.

        Args:
            cameras: [B] rows of the backbone's camera embedding; None: it has none.

        Returns:
            [B, D]: in evaluation the neck's output, the retrieval feature; in training unit rows.
        """
        norms = [module for module in self.modules() if isinstance(module, DomainNorm)]
        for module in norms:
            module.joint = joint
        pooled = embed(self.backbone, self.pool, images, cameras)
        if isinstance(self.neck, SplitBatchNorm1d):
            neck = torch.cat(self.neck(pooled)) if joint and self.training else self.neck.whole(pooled)
        else:
            neck = self.neck(pooled)
        if not self.training:
            return neck
        units = F.normalize(neck)
        if norms and not joint:  # the source's norms are idle: their gradient is 0, not missing
            idle = [p.sum() for norm in norms for p in norm.source.parameters() if p.requires_grad]
            units = units + 0 * torch.stack(idle).sum()
        return units

    def begin_joint(self) -> None:
        """Let the source's batch norms begin as the target's are now."""
        for module in self.modules():
            if isinstance(module, DomainNorm):
                module.begin()
