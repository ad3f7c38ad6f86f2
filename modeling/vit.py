"""ViT for person images: overlapping patches, a grid of any shape, camera embedding, convolutional stem."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from crossreid.modeling.errors import ModelError
from crossreid.modeling.ibn import IBN
from crossreid.modeling.interface import HALF, BaseBackbone, four_stages, strict
from crossreid.modeling.jpm import JigsawParts
from crossreid.modeling.pooling import POOLS, Average, upcast
from crossreid.modeling.positions import fit
from crossreid.modeling.transformer import Block, initialise, rising

SIZES = {  # width, depth, heads, patch; the first three in the field's names, the others are torchvision's
    "vit_tiny": (192, 12, 3, 16),
    "vit_small": (384, 12, 6, 16),
    "vit_base": (768, 12, 12, 16),
    "vit_b_16": (768, 12, 12, 16),
    "vit_b_32": (768, 12, 12, 32),
    "vit_l_16": (1024, 24, 16, 16),
    "vit_l_32": (1024, 24, 16, 32),
    "vit_h_14": (1280, 32, 16, 14),
}
OF_TORCHVISION = ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14")
TORCHVISION = (
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(linear_1|0)\.", ".mlp.fc1."),
    (r"\.mlp\.(linear_2|3)\.", ".mlp.fc2."),
)


class PatchEmbed(nn.Module):
    """Patches of 16 x 16 pixels, ``stride`` apart; with ``stem``, behind three convolutions (the ICS stem)."""

    def __init__(self, dim: int, patch: int, stride: int, *, stem: bool) -> None:
        super().__init__()
        self.conv = nn.Identity() if not stem else _stem()
        if stem and stride != patch:
            raise ModelError(
                f"the convolutional stem of a ViT has patches {patch} pixels apart, not {stride}"
            )
        channels, kernel, step = (64, patch // 2, patch // 2) if stem else (3, patch, stride)
        self.proj = nn.Conv2d(channels, dim, kernel, step)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] to [B, D, h, w]."""
        return self.proj(self.conv(images))


def _stem() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), IBN(64), nn.ReLU(inplace=True),
        nn.Conv2d(64, 64, 3, padding=1, bias=False), IBN(64), nn.ReLU(inplace=True),
        nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
    )  # fmt: skip


class ViT(BaseBackbone):
    """Vision transformer in TransReID's names; its vector is the class token.

    Args:
        size: height and width of the images, pixels.
        dim: width D.
        depth: blocks.
        heads: divide D.
        patch: pixels.
        stride: pixels between patches; below ``patch`` they overlap; 0: as ``patch``.
        stem: convolutions before the patches.
        sie: rows of the embedding of cameras and views; 0: none.
        sie_weight: of that embedding.
        drop_path: of the last block; rises from 0.

    Source: He et al., TransReID, ICCV 2021; the stem: Luo et al., TransReID-SSL, arXiv 2111.12084.
    """

    normalisation = HALF
    stages_give_maps = False

    def __init__(
        self,
        *,
        size: tuple[int, int] = (256, 128),
        dim: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4,
        bias: bool = True,
        patch: int = 16,
        stride: int = 0,
        stem: bool = False,
        sie: int = 0,
        sie_weight: float = 3.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        stride = stride or patch
        self.size, self.stride, self.out_channels = tuple(size), stride, dim
        self.grid = (size[0] - patch) // stride + 1, (size[1] - patch) // stride + 1
        if min(self.grid) < 1:
            raise ModelError(f"images of {size[0]} x {size[1]} pixels are smaller than a patch of {patch}")
        self.patch_embed = PatchEmbed(dim, patch, stride, stem=stem)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], dim))
        self.sie_embed = nn.Parameter(torch.zeros(sie, 1, dim)) if sie else None
        self.sie_weight = sie_weight
        self.register_buffer("sie_cameras", None)
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio=mlp_ratio, bias=bias, drop_path=p) for p in rising(drop_path, depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.stage_names = (("patch_embed",), *four_stages([f"blocks.{k}" for k in range(depth)]))
        initialise(self)
        for table in (self.cls_token, self.pos_embed, *([] if self.sie_embed is None else [self.sie_embed])):
            nn.init.trunc_normal_(table, std=0.02)

    def know_cameras(self, cameras: torch.Tensor) -> None:
        """Learn an embedding of each of these cameras [C, 2], see ``side_information.camera_table``."""
        self.sie_cameras = cameras.clone()
        self.sie_embed = nn.Parameter(torch.empty(len(cameras), 1, self.out_channels))
        nn.init.trunc_normal_(self.sie_embed, std=0.02)

    def embed(self, images: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens [B, 1 + n, D] before the blocks.

        Args:
            images: [B, 3, H, W].
            rows: [B] of the camera embedding; None leaves it out.
        """
        if tuple(images.shape[2:]) != self.size:
            raise ModelError(
                f"this ViT takes images of {self.size[0]} x {self.size[1]} pixels, got {images.shape[2]} x "
                f"{images.shape[3]}: its position embedding was made for INPUT.SIZE"
            )
        x = self.patch_embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        if rows is not None and self.sie_embed is not None:
            x = x + self.sie_weight * self.sie_embed[rows]
        return x

    def tokens(self, images: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens [B, 1 + n, D] after the last norm, the class token first."""
        x = self.embed(images, rows)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """The patches' tokens as maps [B, D, h, w]."""
        return self.patches(self.tokens(images))

    def patches(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, 1 + n, D] without the class token as maps [B, D, h, w]."""
        return tokens[:, 1:].transpose(1, 2).unflatten(2, self.grid)

    def vector(
        self, images: torch.Tensor, pool: nn.Module, cameras: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The class token [B, D]; with GeM plus the generalised mean of the patches, as in TransReID-SSL."""
        return self.head(self.tokens(images, cameras), pool)

    def jigsaw(self, parts: int) -> JigsawParts:
        """A module for part features, beginning as a copy of the last block."""
        return JigsawParts(self.blocks[-1], self.norm, parts=parts)

    def forward(
        self,
        images: torch.Tensor,
        pool: nn.Module | None = None,
        parts: nn.Module | None = None,
        cameras: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As of every backbone; with ``parts`` the vector and the parts' features [B, 1 + P, D].

        Args:
            cameras: [B] rows of the camera embedding; None leaves it out.
        """
        if pool is None:
            return self.maps(images)
        if parts is None:
            return upcast(self.vector(images, pool, cameras))
        x = self.embed(images, cameras)
        for block in self.blocks[:-1]:
            x = block(x)
        whole = self.head(self.norm(self.blocks[-1](x)), pool)
        return torch.cat([whole[:, None], parts(x)], dim=1)

    def head(self, tokens: torch.Tensor, pool: nn.Module) -> torch.Tensor:
        """Tokens [B, 1 + n, D] after the last norm to [B, D]."""
        return tokens[:, 0] if isinstance(pool, Average) else tokens[:, 0] + pool(self.patches(tokens))

    def fitted(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights of a ViT with the position embedding resized to this one's grid."""
        fitted = {_own_name(name): value for name, value in weights.items() if not name.startswith("heads.")}
        positions = fitted.get("pos_embed")
        if positions is not None and positions.dim() == 3 and positions.shape[2] == self.out_channels:
            if any(name.startswith("part_token") for name in fitted):  # PASS: class and part tokens have none
                positions = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
            fitted["pos_embed"] = fit(positions.float(), self.grid)
        return fitted


def _own_name(name: str) -> str:
    """torchvision's name of a weight to TransReID's."""
    if name.startswith(("conv_proj", "class_token", "encoder.")):
        for pattern, replacement in TORCHVISION:
            name = re.sub(pattern, replacement, name)
    return name


class CameraViT(nn.Module):
    """A ViT called with images, cameras and views, as TransReID calls its own."""

    def __init__(self, vit: ViT, views: int, pool: str) -> None:
        super().__init__()
        self.vit, self.views, self.pool = vit, views, POOLS[pool]()

    def forward(
        self, images: torch.Tensor, cameras: torch.Tensor | None = None, views: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Features [B, D] of images [B, 3, H, W], cameras [B] and views [B]."""
        rows = cameras if views is None else views if cameras is None else cameras * self.views + views
        return self.vit.head(self.vit.tokens(images, rows), self.pool)


def build(config: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> CameraViT:
    """A ViT with weights, from the keys of TransReID's constructor.

    Args:
        config: img_size, patch_size, stride_size, embed_dim, depth, num_heads, mlp_ratio, qkv_bias; optional camera,
            view, sie_xishu, stem_conv, gem_pool.
        state: all its weights by TransReID's names; heads are left out.

    Raises:
        ModelError: weights that do not fit.
    """
    cameras, views = (max(int(config.get(key) or 0), 1) for key in ("camera", "view"))
    rows = cameras * views
    vit = ViT(
        size=tuple(config["img_size"]), dim=config["embed_dim"], depth=config["depth"], heads=config["num_heads"],
        mlp_ratio=config.get("mlp_ratio", 4), bias=config.get("qkv_bias", True), patch=config["patch_size"],
        stride=config["patch_size"] if config.get("stem_conv") else config["stride_size"],
        stem=bool(config.get("stem_conv")), sie=rows if rows > 1 else 0, sie_weight=config.get("sie_xishu", 1.0),
    )  # fmt: skip
    strict(vit, {k: v for k, v in state.items() if not k.startswith(("fc.", "head."))})
    return CameraViT(vit, views, "gem" if config.get("gem_pool") else "avg")
