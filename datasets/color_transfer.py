"""Camera style by statistics: a picture takes the colour mean and spread of another camera of its domain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from crossreid.datasets.geometry import Tensor, like, to_float
from crossreid.datasets.images import ImageDataset

# Orthonormal rows: intensity, red - blue, green - magenta. Nearly the principal axes of the colours of natural images.
AXES = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]])
AXES = AXES / AXES.norm(dim=1, keepdim=True)
SMALLEST_STD = 1 / 255  # a flat image keeps a finite gain


@dataclass(frozen=True, eq=False)
class CameraStatistics:
    """Colour statistics of C cameras: their numbers [C] ascending; mean and standard deviation on ``AXES`` [C, 3]."""

    cams: Tensor
    mean: Tensor
    std: Tensor


def _moments(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels [B, 3, H*W] in 0..1, their mean in RGB [B, 3], their standard deviation on the axes [B, 3]."""
    pixels = to_float(images).flatten(2)
    mean = pixels.mean(2)
    axes = AXES.to(pixels)
    # E[x x'] - m m' in float32 loses nothing here: values are in 0..1 and spreads far above 1e-3
    second = pixels @ pixels.transpose(1, 2) / pixels.shape[2]
    covariance = second - mean[:, :, None] * mean[:, None, :]
    variance = torch.einsum("ki,bij,kj->bk", axes, covariance, axes)
    return pixels, mean, variance.clamp_min(0).sqrt()


def camera_statistics(
    dataset: ImageDataset, *, per_camera: int = 1000, batch_size: int = 256
) -> CameraStatistics:
    """Mean over a camera's images of each image's colour mean and standard deviation.

    Args:
        dataset: training images of one domain.
        per_camera: images looked at in each camera, evenly spread over it.
        batch_size: images at a time.
    """
    cams = np.unique(dataset.split.cams)
    means, stds = [], []
    for cam in cams:
        rows = np.flatnonzero(dataset.split.cams == cam)
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), per_camera)).astype(np.int64)]
        parts = []
        for start in range(0, len(rows), batch_size):
            _, mean, std = _moments(dataset.gather(rows[start : start + batch_size]).images)
            parts.append(torch.stack([mean @ AXES.T, std], 1))  # [B, 2, 3]
        mean, std = torch.cat(parts).double().mean(0).float()
        means.append(mean)
        stds.append(std)
    return CameraStatistics(torch.from_numpy(cams), torch.stack(means), torch.stack(stds))


class CameraStyle:
    """Give each image the style of a camera drawn from all C of its domain; its own camera leaves it as it is.

    Args:
        statistics: of the domain's cameras.

    Source: colour transfer by mean and standard deviation in a decorrelated space (Reinhard et al., 2001), in Ohta's
    colour axes (1980), for the camera-invariance of ECN (Zhong et al., CVPR 2019) without generated images.
    """

    def __init__(self, statistics: CameraStatistics) -> None:
        self.statistics = statistics

    def draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor]:
        """Position of the new camera among the domain's [B]."""
        count = len(self.statistics.cams)
        return (torch.randint(count, (len(images),), generator=generator, device=generator.device),)

    def apply(self, images: Tensor, cams: Tensor, target: Tensor) -> Tensor:
        """Images in the style of other cameras.

        Args:
            images: uint8 or in 0..1, [B, 3, H, W].
            cams: [B] camera numbers.
            target: [B] positions among the domain's cameras.
        """
        if self.statistics.cams.device != images.device:  # once a device
            parts = (self.statistics.cams, self.statistics.mean, self.statistics.std)
            self.statistics = CameraStatistics(*(part.to(images.device) for part in parts))
        known = self.statistics
        own = torch.searchsorted(known.cams, cams)
        pixels, mean, std = _moments(images)
        axes = AXES.to(pixels)
        gain = known.std[target] / std.clamp_min(SMALLEST_STD)
        goal = known.mean[target]
        matrix = torch.einsum("ki,bk,kj->bij", axes, gain, axes)  # RGB to RGB, [B, 3, 3]
        offset = goal @ axes - (matrix @ mean[:, :, None]).squeeze(2)
        moved = torch.baddbmm(offset[:, :, None], matrix, pixels).clamp_(0, 1).view(images.shape)
        return torch.where((target == own).view(-1, 1, 1, 1), images, like(moved, images))

    def __call__(self, images: Tensor, generator: torch.Generator | None, cams: Tensor | None) -> Tensor:
        if cams is None or generator is None:
            raise ValueError("CameraStyle needs a generator and the cameras of the batch")
        return self.apply(images, cams, *self.draw(images, generator))
