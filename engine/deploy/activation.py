"""Activation maps: which parts of a photo the backbone answers to."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn import functional as F
from yacs.config import CfgNode

from crossreid.engine.augmentation import plain_transform
from crossreid.engine.deploy.photos import load_pixels


@torch.no_grad()
def activations(network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Sum of the squared channels of a backbone's feature maps, each map brought to 0..1.

    Args:
        network: holds a ``backbone`` that gives [B, D, h, w].
        pixels: [B, 3, H, W], normalised.

    Returns:
        [B, H, W]; empty where the network has no such backbone.

    Source: Zhou et al., Omni-scale feature learning, ICCV 2019 (torchreid's ``visualize_actmap``).
    """
    backbone = next((m for m in network.modules() if hasattr(m, "stage_names")), None)
    if backbone is None:
        return torch.empty(0)
    mode = network.training
    network.eval()
    maps = backbone(pixels)
    network.train(mode)
    if not isinstance(maps, torch.Tensor) or maps.dim() != 4:
        return torch.empty(0)
    energy = maps.float().square().sum(1, keepdim=True)  # [B, 1, h, w]
    energy = F.normalize(energy.flatten(1)).view_as(energy)
    shown = F.interpolate(energy, pixels.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    low, high = shown.amin((1, 2), keepdim=True), shown.amax((1, 2), keepdim=True)
    return (shown - low) / (high - low).clamp_min(1e-12)


def activation_maps(network: nn.Module, paths: Sequence[str], cfg: CfgNode) -> list[str]:
    """Photos under their activation maps, as pictures for a page."""
    device = next(network.parameters()).device
    pixels = load_pixels(list(paths), (cfg.INPUT.SIZE[0], cfg.INPUT.SIZE[1]))
    maps = activations(network, plain_transform(cfg)(torch.from_numpy(pixels).to(device))).cpu().numpy()
    return [_overlay(photo, answer) for photo, answer in zip(pixels, maps)]


def _overlay(photo: NDArray[np.uint8], answer: NDArray[np.float32]) -> str:
    """A photo [3, H, W] under a map [H, W] in the colours of a flame."""
    red, green = np.clip(3 * answer, 0, 1), np.clip(3 * answer - 1, 0, 1)
    flame = 255 * np.stack([red, green, np.clip(3 * answer - 2, 0, 1)], -1)
    mixed = 0.45 * photo.transpose(1, 2, 0) + 0.55 * flame
    buffer = io.BytesIO()
    Image.fromarray(mixed.astype(np.uint8)).resize((64, 128)).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
