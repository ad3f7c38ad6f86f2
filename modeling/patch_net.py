"""PatchNet: windows on the feature map, predicted image by image, each with a small feature of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossreid.modeling.errors import ModelError
from crossreid.modeling.paul_weights import from_paul, is_paul
from crossreid.modeling.pooling import upcast

KERNEL = 3  # of the generator's convolution, which is not padded


class PatchFeatures(NamedTuple):
    """What a training pass gives; an empty tensor where the network has no such layer."""

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
        convolution = nn.Conv2d(channels, 2 * channels, KERNEL, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        self.trunk = nn.Sequential(
            convolution,
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
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

    def forward(self, maps: Tensor) -> Tensor:
        """Windows [B, K, 2, 3] of feature maps [B, C, h, w].

        A window maps x, y in -1..1 (and 1) to a place of the map in -1..1, x first.

        Raises:
            ModelError: a map below 3x3.
        """
        if min(maps.shape[2:]) < KERNEL:
            raise ModelError(
                f"a feature map of {maps.shape[2]}x{maps.shape[3]} is too small for the patch generator, which needs "
                f"{KERNEL}x{KERNEL}: raise INPUT.SIZE, or set MODEL.LAST_STRIDE 1"
            )
        return upcast(self.last(self.trunk(maps)).view(-1, self.patches, 2, 3))


def _unit(x: Tensor) -> Tensor:
    """Vectors [.., D] over their length plus 1e-7, as PyTorch's ``renorm`` in PAUL's program."""
    return x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + 1e-7)


class PatchLinear(nn.Module):
    """One linear map a patch: [B, K, I] to [B, K, O]; initial numbers as those of ``nn.Linear``.

    Args:
        patches: K.
        inputs, outputs: I, O.
    """

    def __init__(self, patches: int, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(patches, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(patches, outputs).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        mapped = torch.einsum("bki,koi->bko", x, self.weight)
        return mapped if self.bias is None else mapped + self.bias

    def cosines(self, units: Tensor) -> Tensor:
        """Inner products [B, K, O] of unit vectors [B, K, I] with the rows of the weight at unit length."""
        return torch.einsum("bki,koi->bko", units, _unit(self.weight))


class PatchNet(nn.Module):
    """Backbone, patch generator, and per patch: average pooling, a 1x1 convolution, batch norm, unit length.

    Source: Yang et al., Patch-based Discriminative Feature Learning (PAUL), CVPR 2019.

    Args:
        backbone: maps images to [B, C, h, w]; has ``out_channels`` = C.
        patches: K.
        dim: D, numbers of a patch's feature.
        embed_dim: E, numbers a patch gives to the image's embedding; 0 leaves the embedding out.
        num_classes: identities of the source; 0 leaves the classifier out. Then the embedding is frozen, and gives
            cosines with its rows: what the image-level loss of stage 2 compares.
    """

    def __init__(
        self,
        backbone: nn.Module,
        patches: int = 6,
        dim: int = 256,
        *,
        embed_dim: int = 0,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        channels, supervised = int(backbone.out_channels), num_classes > 0  # type: ignore[arg-type]
        self.patches, self.dim = patches, patches * dim
        self.backbone = backbone
        self.generator = PatchGenerator(channels, patches)
        self.reduction = PatchLinear(patches, channels, dim, bias=False)
        self.norm = nn.BatchNorm1d(patches * dim)
        self.classifier = PatchLinear(patches, dim, num_classes) if supervised else None
        self.embedding = PatchLinear(patches, dim, embed_dim, bias=supervised) if embed_dim else None
        if self.embedding is not None:
            self.embedding.requires_grad_(supervised)

    def forward(self, images: Tensor) -> Tensor | PatchFeatures:
        """Features of images [B, 3, H, W], normalised.

        Returns:
            In evaluation the K unit features side by side [B, K D], the retrieval feature; in training
            ``PatchFeatures``.

        Raises:
            ModelError: images too small for the patch generator.
        """
        maps = self.backbone(images)  # [B, C, h, w]
        windows = self.generator(maps)
        with torch.autocast(images.device.type, enabled=False):
            pooled = sample_windows(upcast(maps), windows)  # [B, K, C]
            reduced = self.reduction(pooled)  # [B, K, D]
            reduced = self.norm(reduced.flatten(1)).view_as(reduced)
            units = _unit(reduced)
            if not self.training:
                return units.flatten(1)
            logits = embedding = units.new_empty(0)
            if self.classifier is not None:
                hidden = reduced.relu()
                logits = self.classifier(hidden).transpose(0, 1)
                embedding = embedding if self.embedding is None else self.embedding(hidden).flatten(1)
            elif self.embedding is not None:
                embedding = self.embedding.cosines(units).flatten(1)
        return PatchFeatures(units.transpose(0, 1), logits, embedding)

    def translated(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights under this network's names: those of PAUL's program are renamed, others are left."""
        return from_paul(weights) if is_paul(weights) else weights


def sample_windows(maps: Tensor, windows: Tensor) -> Tensor:
    """Mean of the map inside every window, read bilinearly at h x w places with corners aligned, zeros outside.

    The mean is linear in the map: it is computed as a weight for every cell, ``w_k``, the mean of the readings of a
    map that is 1 there and 0 elsewhere, and ``sum over cells of w_k map``.

    Args:
        maps: [B, C, h, w].
        windows: [B, K, 2, 3] as ``PatchGenerator`` gives them.

    Returns:
        [B, K, C].

    Source: Jaderberg et al., Spatial Transformer Networks, NeurIPS 2015; corners as in PAUL's PyTorch 0.4.1.
    """
    batch, patches = windows.shape[:2]
    height, width = maps.shape[2:]
    windows = windows.to(maps.dtype).flatten(0, 1)  # [B K, 2, 3]
    grid = F.affine_grid(windows, [batch * patches, 1, height, width], align_corners=True)  # [B K, h, w, 2]
    cells = torch.eye(height * width, device=maps.device, dtype=maps.dtype).view(1, -1, height, width)
    read = F.grid_sample(
        cells.expand(batch, -1, -1, -1),
        grid.view(batch, patches * height, width, 2),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=True,
    )  # [B, h w, K h, w]
    weights = read.unflatten(2, (patches, height)).mean(dim=(3, 4))  # [B, h w, K]
    return torch.einsum("bsk,bcs->bkc", weights, maps.flatten(2))
