"""CLIP's image tower in OpenAI's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from crossreid.modeling.errors import ModelError
from crossreid.modeling.interface import CLIP, BaseBackbone, four_stages, strict
from crossreid.modeling.pooling import Average
from crossreid.modeling.positions import fit
from crossreid.modeling.transformer import rising

SIZES = {  # width, layers, heads, patch, numbers of the joint space
    "clip_vit_b_16": (768, 12, 12, 16, 512),
    "clip_vit_b_32": (768, 12, 12, 32, 512),
    "clip_vit_l_14": (1024, 24, 16, 14, 768),
}


class _Attention(nn.Module):
    """Self-attention under the parameter names of ``nn.MultiheadAttention``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.normal_(self.in_proj_weight, std=dim**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.c_fc(x)
        return self.c_proj(hidden * torch.sigmoid(1.702 * hidden))


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.attn, self.ln_1 = _Attention(dim, heads), nn.LayerNorm(dim)
        self.mlp, self.ln_2 = _MLP(dim), nn.LayerNorm(dim)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path(self.attn(self.ln_1(x)))
        return x + self.drop_path(self.mlp(self.ln_2(x)))


class CLIPVisual(BaseBackbone):
    """CLIP's image tower; its vector is the class token after the last norm.

    Args:
        size: height and width of the images, pixels.
        width: D.
        layers: blocks.
        heads: divide D.
        patch: pixels.
        stride: pixels between patches; 0: as ``patch``.
        projection: numbers of CLIP's joint space.
        drop_path: of the last block.

    Source: Radford et al., Learning Transferable Visual Models, ICML 2021.
    """

    normalisation = CLIP
    stages_give_maps = False

    def __init__(
        self,
        *,
        size: tuple[int, int] = (256, 128),
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        patch: int = 16,
        stride: int = 0,
        projection: int = 512,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        stride = stride or patch
        self.size, self.stride, self.out_channels = tuple(size), stride, width
        self.grid = (size[0] - patch) // stride + 1, (size[1] - patch) // stride + 1
        self.conv1 = nn.Conv2d(3, width, patch, stride, bias=False)
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        count = 1 + self.grid[0] * self.grid[1]
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(count, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(
            _Block(width, heads, drop_path=p) for p in rising(drop_path, layers)
        )
        self.register_buffer("proj", width**-0.5 * torch.randn(width, projection))
        names = [f"transformer.resblocks.{k}" for k in range(layers)]
        self.stage_names = (("conv1", "ln_pre"), *four_stages(names))

    def tokens(
        self, images: torch.Tensor, cameras: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [B, 1 + n, D] that enter the last block, and those that leave it.

        Args:
            images: [B, 3, H, W].
            cameras: [B, D], added to the class token.
        """
        if tuple(images.shape[2:]) != self.size:
            raise ModelError(
                f"this CLIP tower takes images of {self.size[0]} x {self.size[1]} pixels, got {images.shape[2]} x "
                f"{images.shape[3]}: its position embedding was made for INPUT.SIZE"
            )
        x = self.conv1(images).flatten(2).transpose(1, 2)
        token = self.class_embedding.expand(len(x), 1, -1)
        if cameras is not None:
            token = token + cameras[:, None]
        x = self.ln_pre(torch.cat([token, x], dim=1) + self.positional_embedding)
        blocks: Any = self.transformer.resblocks
        *first, last = blocks
        for block in first:
            x = block(x)
        return x, last(x)

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """The patches' tokens after the last norm as maps [B, D, h, w]."""
        return self.ln_post(self.tokens(images)[1][:, 1:]).transpose(1, 2).unflatten(2, self.grid)

    def vector(self, images: torch.Tensor, pool: nn.Module) -> torch.Tensor:
        """The class token after the last norm [B, D]; with GeM plus the generalised mean of the patches."""
        tokens = self.ln_post(self.tokens(images)[1])
        if isinstance(pool, Average):
            return tokens[:, 0]
        return tokens[:, 0] + pool(tokens[:, 1:].transpose(1, 2).unflatten(2, self.grid))

    def fitted(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights of the tower with the position embedding resized to this one's grid."""
        fitted = dict(weights)
        positions = fitted.get("positional_embedding")
        if positions is not None and positions.dim() == 2 and positions.shape[1] == self.out_channels:
            fitted["positional_embedding"] = fit(positions.float()[None], self.grid)[0]
        return fitted


class CLIPFeatures(nn.Module):
    """The three vectors that CLIP-ReID uses."""

    def __init__(self, tower: CLIPVisual) -> None:
        super().__init__()
        self.tower = tower

    def forward(
        self, images: torch.Tensor, cameras: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Class token after the last norm, its projection, and the class token before the last block."""
        before, after = self.tower.tokens(images, cameras)
        token = self.tower.ln_post(after[:, 0])
        return token, token @ self.tower.proj, before[:, 0]


def build(config: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> CLIPFeatures:
    """The tower with weights.

    Args:
        config: image, patch_size, stride_size, width, layers, heads, output_dim.
        state: all its weights by OpenAI's names.

    Raises:
        ModelError: weights that do not fit.
    """
    tower = CLIPVisual(
        size=tuple(config["image"]), width=config["width"], layers=config["layers"], heads=config["heads"],
        patch=config["patch_size"], stride=config["stride_size"], projection=config["output_dim"],
    )  # fmt: skip
    strict(tower, state)
    return CLIPFeatures(tower)
