"""Patch windows drawn on the images that they were predicted for."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from crossreid.datasets.transforms import Compose
from crossreid.engine.data import Domain
from crossreid.modeling.patch_net import PatchNet

HEIGHT = 256  # of an image in the picture, in pixels
COLOURS = ((230, 60, 50), (240, 160, 30), (60, 170, 70), (40, 120, 220), (150, 80, 200), (20, 170, 180))


@torch.no_grad()
def patch_windows(network: PatchNet, domain: Domain, plain: Compose, count: int) -> dict[str, Tensor]:
    """A picture of evenly spaced training images with their windows drawn on them."""
    if not count:
        return {}
    rows = np.unique(np.linspace(0, len(domain.images) - 1, count).round().astype(int))
    images = domain.images.gather(rows).images
    device = next(network.parameters()).device
    mode = network.training
    network.eval()
    windows = network.generator(network.backbone(plain(images.to(device)))).cpu()
    network.train(mode)
    return {"patch_windows": draw_windows(images, windows)}


def draw_windows(images: Tensor, windows: Tensor) -> Tensor:
    """The images side by side, each with the outlines of its windows.

    Args:
        images: uint8 [B, 3, H, W].
        windows: [B, K, 2, 3], affine: from -1..1 in a window to -1..1 in the image, x first.

    Returns:
        uint8 [3, height, width].
    """
    height, width = HEIGHT, max(1, round(HEIGHT * images.shape[3] / images.shape[2]))
    corners = torch.tensor([[-1.0, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]])
    places = torch.einsum("ci,bkji->bkcj", corners, windows.float())  # [B, K, 4, 2]
    sheet = Image.new("RGB", ((width + 8) * len(images), height + 8), "white")
    for column, (image, outlines) in enumerate(zip(images, places.tolist())):
        tile = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(
            (width, height), Image.Resampling.BILINEAR
        )
        pen = ImageDraw.Draw(tile)
        for patch, outline in enumerate(outlines):
            inset = 1 + patch % 2  # neighbours that share an edge both stay visible
            points = [_pixel(x, y, width, height, inset) for x, y in outline]
            pen.polygon(points, outline=COLOURS[patch % len(COLOURS)], width=2)
        sheet.paste(tile, (4 + column * (width + 8), 4))
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)


def _pixel(x: float, y: float, width: int, height: int, inset: int) -> tuple[float, float]:
    place = ((x + 1) / 2 * width, (y + 1) / 2 * height)
    if not all(map(math.isfinite, place)):
        return (0.0, 0.0)
    return min(max(place[0], inset), width - 1 - inset), min(max(place[1], inset), height - 1 - inset)
