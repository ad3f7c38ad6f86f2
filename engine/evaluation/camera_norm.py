"""Features normalised within each camera."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F


def camera_normalised(
    features: torch.Tensor, cameras: torch.Tensor | NDArray[np.int64], *, prior: float = 4.0
) -> torch.Tensor:
    """Each feature minus its camera's mean, divided by its camera's standard deviation, at unit length.

    Args:
        features: [N, D].
        cameras: [N]; unknown ones (-1) count as a camera of their own.
        prior: so many images' worth of the mean and variance of all images are mixed into a camera's, so that a camera
            with few images keeps its differences; 0: as published.

    Source: Song, Park, Lee, Exploring the Camera Bias of Person Re-identification, ICLR 2025.
    """
    camera = torch.as_tensor(cameras).to(features.device)
    mean, variance = features.mean(0), features.var(0, unbiased=False)
    result = torch.empty_like(features)
    for number in camera.unique().tolist():
        rows = (camera == number).nonzero().flatten()
        own = features[rows]
        share = len(rows) / (len(rows) + prior)
        centre = torch.lerp(mean, own.mean(0), share)
        spread = torch.lerp(variance, own.var(0, unbiased=False), share)
        result[rows] = (own - centre) / spread.clamp_min(1e-12).sqrt()
    return F.normalize(result)
