"""Sheets of small images, for methods that are judged by looking."""

from __future__ import annotations

import torch
from torch.nn import functional as F

GAP = 2  # white pixels around each image


def sheet(images: torch.Tensor) -> torch.Tensor:
    """One picture, uint8 [3, height, width], of rows and columns of images.

    Args:
        images: [R, C, 3, H, W] in 0..1; values outside are cut off.
    """
    framed = F.pad(images.float(), (GAP, GAP, GAP, GAP), value=1.0)
    rows, columns, channels, height, width = framed.shape
    whole = framed.permute(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)
    return (whole.clamp(0, 1) * 255).round().to(torch.uint8)
