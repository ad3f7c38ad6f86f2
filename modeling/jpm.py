"""The jigsaw patch module: part features of shuffled groups of patches."""

from __future__ import annotations

import copy

import torch
from torch import nn


def shuffle(tokens: torch.Tensor, *, shift: int, groups: int) -> torch.Tensor:
    """Rotate the patches by ``shift`` - 1 and deal them out, one after another, to ``groups`` hands.

    Args:
        tokens: [B, 1 + n, D], the class token first; it is left out.
        shift: 1 .. n.
        groups: number of hands; if they do not divide n, the last patch but one is taken twice.

    Returns:
        [B, n or n + 1, D].

    Source: He et al., TransReID, ICCV 2021, section 3.3.
    """
    patches = torch.cat([tokens[:, shift:], tokens[:, 1:shift]], dim=1)
    if patches.shape[1] % groups:
        patches = torch.cat([patches, patches[:, -2:-1]], dim=1)
    return patches.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class JigsawParts(nn.Module):
    """Local class tokens: the last block, copied, over every part of the shuffled patches.

    Args:
        block: the backbone's last block; copied.
        norm: the norm after it; copied.
        parts: number of local features.
        shift: of the patches.
        groups: of the shuffle.
    """

    def __init__(
        self, block: nn.Module, norm: nn.Module, *, parts: int = 4, shift: int = 5, groups: int = 2
    ) -> None:
        super().__init__()
        self.block, self.norm = copy.deepcopy(block), copy.deepcopy(norm)
        self.parts, self.shift, self.groups = parts, shift, groups

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, 1 + n, D] that enter the last block to local features [B, parts, D]."""
        patches = shuffle(tokens, shift=self.shift, groups=self.groups)
        length = patches.shape[1] // self.parts
        found = []
        for k in range(self.parts):
            part = torch.cat([tokens[:, :1], patches[:, k * length : (k + 1) * length]], dim=1)
            found.append(self.norm(self.block(part))[:, 0])
        return torch.stack(found, dim=1)
