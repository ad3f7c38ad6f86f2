"""Instance and batch norm side by side."""

from __future__ import annotations

import torch
from torch import nn


class IBN(nn.Module):
    """Instance norm on the first half of the channels, batch norm on the rest.

    Source: Pan et al., Two at Once, ECCV 2018, figure 3 (a). Parameter names are those of published weights.

    Args:
        channels: of the input [B, channels, H, W].
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.normalised = channels // 2
        self.IN = nn.InstanceNorm2d(self.normalised, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.normalised)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.split([self.normalised, x.shape[1] - self.normalised], dim=1)
        return torch.cat([self.IN(first), self.BN(second)], dim=1)
