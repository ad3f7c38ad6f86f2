"""PatchNet: windows on the feature map, predicted image by image, each with a small feature of its own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossreid.modeling.errors import ModelError


class PatchFeatures(NamedTuple):
    """What a training pass gives; the last two are empty for a network without classifier."""

    patches: Tensor  # [K, B, D] unit features
    logits: Tensor  # [K, B, C]
    embedding: Tensor  # [B, K E]


class PatchGenerator(nn.Module):
    """Predicts K affine windows from a feature map; at first K horizontal stripes whatever the image shows.

    Args:
        channels: of the feature map.
        patches: K.
    """

    def __init__(self, channels: int, patches: int) -> None:
        super().__init__()
        self.patches = patches
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * channels, 512),
            nn.ReLU(inplace=True),
        )
        self.last = nn.Linear(512, patches * 6)
        nn.init.zeros_(self.last.weight)
        stripes = torch.zeros(patches, 2, 3)
        stripes[:, 0, 0], stripes[:, 1, 1] = 1, 1 / patches
        stripes[:, 1, 2] = (2 * torch.arange(patches) + 1) / patches - 1  # centres: -5/6 ... 5/6 for six
        with torch.no_grad():
            self.last.bias.copy_(stripes.flatten())
        self.constant = True  # the last weight is zero: the windows do not depend on the image
        self.register_load_state_dict_post_hook(_note_constant)

    def forward(self, maps: Tensor) -> Tensor:
        """Windows [B, K, 2, 3] of feature maps [B, C, h, w].

        A window maps x, y in -1..1 (and 1) to a place of the map in -1..1, x first.
        """
        if self.constant and not self.training:
            return self.last.bias.view(1, self.patches, 2, 3).expand(len(maps), -1, -1, -1)
        self.constant = False
        return _raised(self.last(self.trunk(maps)).view(-1, self.patches, 2, 3))


def _raised(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _note_constant(generator: nn.Module, _: object) -> None:
    assert isinstance(generator, PatchGenerator)
    generator.constant = not bool(generator.last.weight.any())


class PatchLinear(nn.Module):
    """One linear map a patch: [B, K, I] to [B, K, O].

    Args:
        patches: K.
        inputs, outputs: I, O.
        std: of the initial weights; None: He's, for the inputs.
    """

    def __init__(self, patches: int, inputs: int, outputs: int, *, std: float | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(patches, outputs, inputs))
        nn.init.normal_(self.weight, std=(2 / inputs) ** 0.5 if std is None else std)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bki,koi->bko", x, self.weight)


class PatchNet(nn.Module):
    """Backbone, patch generator, and per patch: average pooling, a 1x1 convolution, batch norm, unit length.

    Source: Yang et al., Patch-based Discriminative Feature Learning (PAUL), CVPR 2019.

    Args:
        backbone: maps images to [B, C, h, w]; has ``out_channels`` = C.
        patches: K; must divide the height h of the map.
        dim: D, numbers of a patch's feature.
        embed_dim: E, numbers a patch gives to the triplet loss.
        num_classes: identities of the source; 0 leaves out classifier and embedding.
    """

    def __init__(
        self,
        backbone: nn.Module,
        patches: int = 6,
        dim: int = 256,
        *,
        embed_dim: int = 128,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        channels = int(backbone.out_channels)  # type: ignore[arg-type]
        self.patches, self.dim = patches, patches * dim
        self.backbone = backbone
        self.generator = PatchGenerator(channels, patches)
        self.reduction = PatchLinear(patches, channels, dim)
        self.norm = nn.BatchNorm1d(patches * dim)
        self.classifier = PatchLinear(patches, dim, num_classes, std=0.001) if num_classes else None
        self.embedding = PatchLinear(patches, dim, embed_dim) if num_classes else None

    def windows(self, maps: Tensor, *, train: bool = False) -> Tensor:
        """Windows [B, K, 2, 3] of feature maps.

        The generator learns from the maps and does not shape them: no gradient flows into them this way.

        Args:
            train: with gradients, batch norm in training mode; otherwise the generator is left as it is.
        """
        self.generator.train(train)
        with torch.set_grad_enabled(train and torch.is_grad_enabled()):
            return self.generator(maps.detach())

    def forward(self, images: Tensor, *, train_generator: bool = False) -> Tensor | PatchFeatures:
        """Features of images [B, 3, H, W], normalised.

        Args:
            train_generator: training: let the patch generator learn from this pass.

        Returns:
            In evaluation the K unit features side by side [B, K D], the retrieval feature; in training
            ``PatchFeatures``.

        Raises:
            ModelError: a map whose height cannot be divided into K patches.
        """
        maps = self.backbone(images)  # [B, C, h, w]
        check_height(maps.shape[2], images.shape[2], self.patches)
        windows = self.windows(maps, train=train_generator and self.training)
        with torch.autocast(images.device.type, enabled=False):
            pooled = sample_windows(_raised(maps), windows)  # [B, K, C]
            reduced = self.reduction(pooled)  # [B, K, D]
            reduced = self.norm(reduced.flatten(1)).view_as(reduced)
            units = F.normalize(reduced, dim=2)
            if not self.training:
                return units.flatten(1)
            empty = units.new_empty(0)
            logits = empty if self.classifier is None else self.classifier(reduced).transpose(0, 1)
            embedding = empty if self.embedding is None else self.embedding(reduced).flatten(1)
        return PatchFeatures(units.transpose(0, 1), logits, embedding)


def check_height(rows: int, height: int, patches: int) -> None:
    """Raise ModelError unless a map of ``rows`` rows, of images ``height`` pixels high, divides into patches."""
    if rows % patches:
        unit = max(1, round(height / rows)) * patches
        near = max(1, round(height / unit)) * unit
        raise ModelError(
            f"images {height} pixels high give a feature map of {rows} rows, which {patches} patches do not divide: "
            f"set INPUT.SIZE's height to a multiple of {unit}, for example {near}, or change CENTRAL_FEATURE.PATCHES"
        )


def sample_windows(maps: Tensor, windows: Tensor) -> Tensor:
    """Mean of the map inside every window, read bilinearly at h / K rows and w columns, zeros outside.

    Args:
        maps: [B, C, h, w].
        windows: [B, K, 2, 3] as ``PatchGenerator`` gives them.

    Returns:
        [B, K, C]; for the initial stripes exactly the means of the K stripes of rows.
    """
    batch, patches = windows.shape[:2]
    rows, columns = maps.shape[2] // patches, maps.shape[3]
    y = (2 * torch.arange(rows, device=maps.device, dtype=maps.dtype) + 1) / rows - 1
    x = (2 * torch.arange(columns, device=maps.device, dtype=maps.dtype) + 1) / columns - 1
    base = torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns), maps.new_ones(rows, columns)], -1)
    grid = torch.einsum("rci,bkji->bkrcj", base, windows.to(maps.dtype))  # [B, K, rows, columns, 2]
    grid = grid.reshape(batch, patches * rows, columns, 2)
    found = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return found.unflatten(2, (patches, rows)).mean(dim=(3, 4)).transpose(1, 2)
