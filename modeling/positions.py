"""Position embeddings for another grid of patches than they were trained on."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from crossreid.modeling.errors import ModelError


def grid_of(patches: int, ratio: int) -> tuple[int, int]:
    """Rows and columns of ``patches`` positions in a grid ``ratio`` times as high as wide.

    Raises:
        ModelError: they fill no such grid.
    """
    height = math.isqrt(patches * ratio)
    width = height // ratio
    if height * width != patches:
        raise ModelError(f"{patches} positions are no grid of {ratio} : 1")
    return height, width


def resize(positions: torch.Tensor, size: tuple[int, int], *, ratio: int) -> torch.Tensor:
    """Resize position embeddings bilinearly; the class token's keeps its values.

    Args:
        positions: [1, 1 + n, D], the class token's first.
        size: rows and columns of the new grid.
        ratio: height / width of the old one: 1 for ImageNet's, 2 for person images.

    Returns:
        [1, 1 + rows * columns, D].

    Source: TransReID, ``resize_pos_embed``.
    """
    height, width = grid_of(positions.shape[1] - 1, ratio)
    token, grid = positions[:, :1], positions[:, 1:]
    grid = grid.unflatten(1, (height, width)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=tuple(size), mode="bilinear", align_corners=False)
    return torch.cat([token, grid.flatten(2).transpose(1, 2)], dim=1)


def fit(positions: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize position embeddings of any origin: a square grid, else one of 2 : 1; the same number stays as it is.

    Args:
        positions: [1, 1 + n, D].
        size: rows and columns of the new grid.
    """
    patches = positions.shape[1] - 1
    if patches == size[0] * size[1]:
        return positions
    square = math.isqrt(patches) ** 2 == patches
    return resize(positions, size, ratio=1 if square else 2)
