"""Batch transforms: from uint8 [B, 3, H, W] to normalised floating point, on the device the images are on.

A ``Compose`` is one pass over the batch, every image with its own draws from an explicit ``torch.Generator`` of that
device; the same generator seed gives the same bits. Nothing here waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from crossreid.datasets import buffers
from crossreid.datasets.color import ColorJitter
from crossreid.datasets.color_transfer import CameraStyle, camera_statistics
from crossreid.datasets.geometry import (
    ATTEMPTS,
    AreaCrop,
    Flip,
    FlipPadCrop,
    PadCrop,
    Rotation,
    Tensor,
    as_floats,
    first_fit,
    uniform,
)

__all__ = [
    "AreaCrop",
    "CameraStyle",
    "ColorJitter",
    "Compose",
    "Flip",
    "Normalize",
    "PadCrop",
    "RandomErasing",
    "Rotation",
    "camera_statistics",
    "iteration_generator",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

CACHED_VALUES = 3_200_000  # numbers of a piece of a batch that the CPU works on at a time

Transform = Callable[..., Tensor]


def iteration_generator(
    device: torch.device | str, seed: int, epoch: int, iteration: int, rank: int = 0, stream: int = 0
) -> torch.Generator:
    """A generator for one iteration of one rank (and one of its streams or views), the same in every run."""
    mixed = np.random.SeedSequence([seed, epoch, iteration, rank, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator(device=device).manual_seed(int(mixed >> np.uint64(1)))


class Normalize:
    """(x - mean) / std a channel, for x in 0..1 (uint8 images count as x / 255)."""

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        self.mean, self.std = as_floats(mean), as_floats(std)
        self._constants: dict[tuple[torch.device, bool], tuple[Tensor, Tensor]] = {}

    def _get(self, device: torch.device, bytes_in: bool) -> tuple[Tensor, Tensor]:
        """Mean and 1 / std in the images' unit [1, 3, 1, 1], copied to the device once."""
        if (device, bytes_in) not in self._constants:
            unit = 255.0 if bytes_in else 1.0
            mean = torch.tensor([m * unit for m in self.mean]).view(1, 3, 1, 1)
            scale = torch.tensor([1 / (s * unit) for s in self.std]).view(1, 3, 1, 1)
            self._constants[device, bytes_in] = (mean.to(device), scale.to(device))
        return self._constants[device, bytes_in]

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean, scale = self._get(images.device, images.dtype == torch.uint8)
        result = buffers.empty(tuple(images.shape), torch.float32, images.device)
        return result.copy_(images).sub_(mean).mul_(scale)


class RandomErasing:
    """Cover a random box of the normalised image.

    Args:
        p: probability.
        area: range of the box's share of the image.
        aspect: range of height / width, drawn by its logarithm.
        value: "mean" (0 after normalising), "random" (normal noise a pixel), or a colour: one or three of 0..255.
        mean, std: of the ``Normalize`` before, for a colour.

    Source: Zhong et al., Random Erasing Data Augmentation, AAAI 2020; draws as torchvision's ``RandomErasing``.
    """

    def __init__(
        self,
        p: float = 0.5,
        area: tuple[float, float] = (0.02, 0.25),
        aspect: tuple[float, float] = (0.3, 1 / 0.3),
        value: str | float | Sequence[float] = "mean",
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        if isinstance(value, str) and value not in ("mean", "random"):
            raise ValueError(f"erasing value {value!r} is not mean, random or a colour of 0..255")
        self.p, self.area, self.aspect, self.value = p, area, aspect, value
        colour = (0.0,) * 3 if isinstance(value, str) else as_floats(value)
        self._colour = [(c / 255 - m) / s for c, m, s in zip(colour, as_floats(mean), as_floats(std))]
        self._fill: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Corner and size of the boxes in pixels: top, left, height, width, each [B]; height 0 erases nothing."""
        batch, _, full_height, full_width = images.shape
        tries = (batch, ATTEMPTS)
        area = uniform(tries, *self.area, generator) * (full_height * full_width)
        aspect = uniform(tries, math.log(self.aspect[0]), math.log(self.aspect[1]), generator).exp()
        height, width = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        found, (height, width) = first_fit((height < full_height) & (width < full_width), height, width)
        top = (uniform(batch, 0, 1, generator) * (full_height - height + 1)).floor()
        left = (uniform(batch, 0, 1, generator) * (full_width - width + 1)).floor()
        chosen = found & (uniform(batch, 0, 1, generator) < self.p)
        return top, left, height * chosen, width

    def apply(
        self,
        images: Tensor,
        top: Tensor,
        left: Tensor,
        height: Tensor,
        width: Tensor,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Erase in place, and return the images."""
        rows = torch.arange(images.shape[2], device=images.device)
        columns = torch.arange(images.shape[3], device=images.device)
        tall = (rows >= top[:, None]) & (rows < (top + height)[:, None])  # [B, H]
        wide = (columns >= left[:, None]) & (columns < (left + width)[:, None])  # [B, W]
        box = (tall[:, None, :, None] & wide[:, None, None, :]).to(images.dtype)  # [B, 1, H, W]
        images.mul_(1 - box)
        if noise is not None:
            images.addcmul_(noise.to(images.dtype), box)
        elif not isinstance(self.value, str):
            key = (images.device, images.dtype)
            if key not in self._fill:
                self._fill[key] = (
                    torch.tensor(self._colour, dtype=images.dtype).view(1, 3, 1, 1).to(images.device)
                )
            images.addcmul_(self._fill[key], box)
        return images

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        top, left, height, width = self.draw(images, generator)
        noise = None
        if self.value == "random":
            noise = torch.randn(images.shape, generator=generator, device=images.device)
        return self.apply(images, top, left, height, width, noise)


class Compose:
    """Transforms one after the other, ending in floating-point images.

    Args:
        transforms: pixel transforms, then one ``Normalize``, then ``RandomErasing`` if any. A ``Flip`` directly before
            a ``PadCrop`` is done together with it.
        dtype: of the result: float32, bfloat16 or float16 (computed in float32, rounded once).
        channels_last: memory format of the result.

    Raises:
        ValueError: another order, or another type.
    """

    def __init__(
        self,
        transforms: Sequence[Transform],
        dtype: torch.dtype = torch.float32,
        *,
        channels_last: bool = False,
    ) -> None:
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"images can be float32, bfloat16 or float16, not {dtype}")
        kinds = [type(transform) for transform in transforms]
        if kinds.count(Normalize) != 1 or RandomErasing in kinds[: kinds.index(Normalize)]:
            raise ValueError("transforms need exactly one Normalize, and RandomErasing only after it")
        if any(kind is not RandomErasing for kind in kinds[kinds.index(Normalize) + 1 :]):
            raise ValueError("after Normalize only RandomErasing may stand")
        self.transforms, self.dtype, self.channels_last = _fused(list(transforms)), dtype, channels_last

    def __call__(
        self, images: Tensor, generator: torch.Generator | None = None, cams: Tensor | None = None
    ) -> Tensor:
        """Transform a batch.

        Args:
            images: uint8 in 0..255 or floating point in 0..1, [B, 3, H, W]; unchanged afterwards.
            generator: of the images' device; ``Normalize`` alone needs none.
            cams: [B], where a ``CameraStyle`` is among the transforms.

        Returns:
            [B, 3, H, W] in the type asked for.
        """
        batch, channels, height, width = images.shape
        step = batch
        if (
            images.device.type == "cpu"
        ):  # pieces that stay in the processor's cache: up to three times as fast
            step = max(1, CACHED_VALUES // (channels * height * width))
        if self.channels_last:
            out = buffers.empty((batch, height, width, channels), self.dtype, images.device).permute(
                0, 3, 1, 2
            )
        else:
            out = buffers.empty((batch, channels, height, width), self.dtype, images.device)
        for start in range(0, batch, step):
            piece = slice(start, start + step)
            out[piece].copy_(self._run(images[piece], generator, None if cams is None else cams[piece]))
        return out

    def _run(self, images: Tensor, generator: torch.Generator | None, cams: Tensor | None) -> Tensor:
        for transform in self.transforms:
            if isinstance(transform, CameraStyle):
                images = transform(images, generator, cams)
            else:
                images = transform(images, generator)
        return images


def _fused(transforms: list[Transform]) -> list[Transform]:
    result: list[Transform] = []
    for transform in transforms:
        if isinstance(transform, PadCrop) and result and isinstance(result[-1], Flip):
            result[-1] = FlipPadCrop(result[-1], transform)
        else:
            result.append(transform)
    return result
