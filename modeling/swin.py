"""Swin transformer in SOLIDER's (mmseg's) names, with its semantic control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from crossreid.modeling.interface import HALF, BaseBackbone, Pooled, strict
from crossreid.modeling.transformer import initialise, rising

SIZES = {  # width, depths, heads
    "solider_swin_tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "solider_swin_small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "solider_swin_base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
}


class _WindowAttention(nn.Module):
    """Attention inside windows with a learnt bias for every relative position."""

    relative_position_index: torch.Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, side = heads, 2 * window - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(side * side, heads))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        place = torch.stack(
            torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        ).flatten(1)
        apart = place[:, :, None] - place[:, None] + window - 1  # [2, w², w²]
        self.register_buffer("relative_position_index", apart[0] * side + apart[1], persistent=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Windows [B W, n, D]; mask [W, n, n], -100 between parts that were not neighbours."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = (
            self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None].to(q.dtype)
        )
        if mask is not None:
            bias = bias + mask.to(q.dtype)[:, None]
            bias = bias.repeat(len(x) // len(mask), 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(out.transpose(1, 2).flatten(2))


class _ShiftedWindows(nn.Module):
    """Attention over windows of a map that is zero-padded to whole windows and, in every second block, rolled."""

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.w_msa = _WindowAttention(dim, heads, window)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Tokens [B, h w, D]."""
        (h, w), n, shift = size, self.window, self.shift
        x = F.pad(x.unflatten(1, size), (0, 0, 0, -w % n, 0, -h % n))
        rows, columns = x.shape[1:3]
        if shift:
            x = x.roll((-shift, -shift), dims=(1, 2))
        windows = _windows(x, n)
        mask = _mask(rows, columns, n, shift, x.device) if shift else None
        x = self.w_msa(windows, mask).unflatten(1, (n, n))
        x = x.unflatten(0, (-1, rows // n, columns // n)).permute(0, 1, 3, 2, 4, 5)
        x = x.flatten(3, 4).flatten(1, 2)
        if shift:
            x = x.roll((shift, shift), dims=(1, 2))
        return x[:, :h, :w].flatten(1, 2)


def _windows(x: torch.Tensor, n: int) -> torch.Tensor:
    """[B, h, w, D] to [B W, n², D]."""
    x = x.unflatten(2, (-1, n)).unflatten(1, (-1, n)).transpose(2, 3)  # [B, h/n, w/n, n, n, D]
    return x.flatten(3, 4).flatten(0, 2)


def _mask(rows: int, columns: int, n: int, shift: int, device: torch.device) -> torch.Tensor:
    """[W, n², n²]: 0 inside a part of the rolled map, -100 across."""
    part = [
        (torch.arange(length, device=device) >= length - n).int()
        + (torch.arange(length, device=device) >= length - shift).int()
        for length in (rows, columns)
    ]
    parts = _windows((3 * part[0][:, None] + part[1])[None, :, :, None], n)[..., 0]
    return (parts[:, :, None] != parts[:, None]) * -100.0


class _FeedForward(nn.Module):
    """Two layers with a GELU, under mmcv's names."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU()), nn.Linear(4 * dim, dim)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.ffn = _ShiftedWindows(dim, heads, window, shift), _FeedForward(dim)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.ffn(self.norm2(x)))


class _Merge(nn.Module):
    """Four neighbours to one token; the inputs are ordered channel, row, column, as in mmseg."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Tokens [B, h w, D] to [B, ⌈h/2⌉ ⌈w/2⌉, 2 D]."""
        maps = F.pad(x.unflatten(1, size), (0, 0, 0, size[1] % 2, 0, size[0] % 2))
        maps = maps.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 5, 2, 4)
        return self.reduction(self.norm(maps.flatten(3).flatten(1, 2)))


class _Stage(nn.Module):
    def __init__(self, dim: int, heads: int, window: int, rates: Sequence[float], *, merge: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _Block(dim, heads, window, window // 2 if k % 2 else 0, rate) for k, rate in enumerate(rates)
        )
        self.downsample = _Merge(dim) if merge else None

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Tokens after the blocks."""
        for block in self.blocks:
            x = block(x, size)
        return x


class SwinTransformer(BaseBackbone):
    """Swin whose map is that of the last stage after its norm.

    Args:
        width: D of the first stage.
        depths: blocks of each stage.
        heads: of each stage.
        window: side of a window, in tokens.
        semantic: weight of the semantic control, 0 (appearance) to 1 (parts); below 0: none.
        drop_path: of the last block.

    Source: Liu et al., Swin Transformer, ICCV 2021; Chen et al., Beyond Appearance (SOLIDER), CVPR 2023.
    """

    normalisation = HALF
    stages_give_maps = False
    stride = 32

    def __init__(
        self,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        *,
        patch: int = 4,
        window: int = 7,
        semantic: float = 0.2,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [width * 2**k for k in range(len(depths))]
        self.patch, self.semantic, self.out_channels = patch, semantic, widths[-1]
        self.patch_embed = nn.ModuleDict(
            {"projection": nn.Conv2d(3, width, patch, patch), "norm": nn.LayerNorm(width)}
        )
        rates = rising(drop_path, sum(depths))
        self.stages = nn.ModuleList()
        for k, depth in enumerate(depths):
            first = sum(depths[:k])
            self.stages.append(
                _Stage(widths[k], heads[k], window, rates[first : first + depth], merge=k + 1 < len(depths))
            )
        self.add_module(f"norm{len(depths) - 1}", nn.LayerNorm(widths[-1]))
        if semantic >= 0:
            for kind in "wb":
                layers = nn.ModuleList(nn.Linear(2, 2 * w) for w in widths[:-1])
                self.add_module(f"semantic_embed_{kind}", layers)
        self.stage_names = (
            ("patch_embed.projection", "patch_embed.norm"), *((f"stages.{k}",) for k in range(len(depths))),
        )  # fmt: skip
        initialise(self)

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] to maps [B, D, ⌈H/32⌉, ⌈W/32⌉]."""
        images = F.pad(images, (0, -images.shape[3] % self.patch, 0, -images.shape[2] % self.patch))
        x = self.patch_embed["projection"](images)
        size = x.shape[2], x.shape[3]
        x = self.patch_embed["norm"](x.flatten(2).transpose(1, 2))
        stages: Any = self.stages
        for k, stage in enumerate(stages):
            x = stage(x, size)
            if stage.downsample is None:
                break
            x = stage.downsample(x, size)
            size = (size[0] + 1) // 2, (size[1] + 1) // 2
            if self.semantic >= 0:
                scale, shift = (self._controlled(f"semantic_embed_{kind}.{k}") for kind in "wb")
                x = x * F.softplus(scale) + shift
        x = self.get_submodule(f"norm{len(self.stages) - 1}")(x)
        return x.transpose(1, 2).unflatten(2, size)

    def _controlled(self, name: str) -> torch.Tensor:
        """A layer of the control, applied to [semantic, 1 - semantic]."""
        layer: Any = self.get_submodule(name)
        return layer.weight[:, 0] * self.semantic + layer.weight[:, 1] * (1 - self.semantic) + layer.bias

    def fitted(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """SOLIDER's weights without those that never reach the map, bias tables resized to this window."""
        last = len(self.stages) - 1
        unused = tuple(f"norm{k}." for k in range(last))
        unused += (f"semantic_embed_w.{last}.", f"semantic_embed_b.{last}.")
        if self.semantic < 0:
            unused += ("semantic_embed_",)
        own = self.state_dict()
        fitted = {}
        for name, value in weights.items():
            if name.startswith(unused) or name.endswith("relative_position_index"):
                continue
            if name.endswith("relative_position_bias_table") and name in own:
                value = resize_table(value, own[name].shape[0])
            fitted[name] = value
        return fitted


def resize_table(table: torch.Tensor, rows: int) -> torch.Tensor:
    """A bias table [s², heads] for another window, bicubically: [rows, heads]."""
    old, new = round(table.shape[0] ** 0.5), round(rows**0.5)
    if old == new:
        return table
    grid = table.float().T.reshape(1, -1, old, old)
    return F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)[0].flatten(1).T


def build(config: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> Pooled:
    """Swin with weights.

    Args:
        config: patch_size, window_size, embed_dims, depths, num_heads, semantic_weight.
        state: all its weights by SOLIDER's names.

    Raises:
        ModelError: weights that do not fit.
    """
    swin = SwinTransformer(
        config["embed_dims"], config["depths"], config["num_heads"], patch=config["patch_size"],
        window=config["window_size"], semantic=config["semantic_weight"],
    )  # fmt: skip
    strict(swin, swin.fitted(state))
    return Pooled(swin)
