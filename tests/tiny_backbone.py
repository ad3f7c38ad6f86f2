"""A backbone of two convolutions, for tests whose time goes with the number of layers: ``tests.tiny_backbone``."""

from __future__ import annotations

import torch
from torch import nn


class Net(nn.Module):
    out_channels, stride, stage_names = 16, 4, (("stem",), ("stage",))

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stage = _block(3, 8), _block(8, 16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.stage(self.stem(images))


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU())


def build(last_stride: int) -> Net:
    return Net()
