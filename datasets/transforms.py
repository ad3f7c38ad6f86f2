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
    Geometric,
    PadCrop,
    Rotation,
    Tensor,
    WidthCrop,
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
    "WidthCrop",
    "camera_statistics",
    "iteration_generator",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

ERASE_LAWS = ("log", "uniform")

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
        area: range of the erased area as a fraction of the image, drawn uniformly.
        aspect: range of height / width.
        law: of the aspect: "log" draws it by its logarithm, "uniform" as it is, which makes three boxes in four tall.
        value: one number or RGB, after normalising; 0 is the mean colour.

    Source: Zhong et al., Random Erasing Data Augmentation, AAAI 2020, whose program draws "uniform"; "log" draws as
    torchvision's ``RandomErasing``.
    """

    def __init__(
        self,
        p: float = 0.5,
        area: tuple[float, float] = (0.02, 0.25),
        aspect: tuple[float, float] = (0.3, 1 / 0.3),
        law: str = "log",
        value: float | Sequence[float] = 0.0,
    ) -> None:
        if law not in ERASE_LAWS:
            raise ValueError(f"law {law!r} of the aspect is not one of {', '.join(ERASE_LAWS)}")
        self.p, self.area, self.aspect, self.law, self.value = p, area, aspect, law, as_floats(value)
        self._fill: dict[torch.device, Tensor] = {}

    def draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Corner and size of the boxes in pixels: top, left, height, width, each [B]; height 0 erases nothing."""
        batch, _, full_height, full_width = images.shape
        tries = (batch, ATTEMPTS)
        area = uniform(tries, *self.area, generator) * (full_height * full_width)
        if self.law == "log":
            aspect = uniform(tries, math.log(self.aspect[0]), math.log(self.aspect[1]), generator).exp()
        else:
            aspect = uniform(tries, *self.aspect, generator)
        height, width = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        found, (height, width) = first_fit((height < full_height) & (width < full_width), height, width)
        top = (uniform(batch, 0, 1, generator) * (full_height - height + 1)).floor()
        left = (uniform(batch, 0, 1, generator) * (full_width - width + 1)).floor()
        chosen = found & (uniform(batch, 0, 1, generator) < self.p)
        return top, left, height * chosen, width

    def apply(self, images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
        """Erase in place, and return the images."""
        rows = torch.arange(images.shape[2], device=images.device)
        columns = torch.arange(images.shape[3], device=images.device)
        tall = (rows >= top[:, None]) & (rows < (top + height)[:, None])  # [B, H]
        wide = (columns >= left[:, None]) & (columns < (left + width)[:, None])  # [B, W]
        box = (tall[:, None, :, None] & wide[:, None, None, :]).to(images.dtype)  # [B, 1, H, W]
        images.mul_(1 - box)
        if any(self.value):
            if images.device not in self._fill:  # copied to the device once
                self._fill[images.device] = torch.tensor(self.value).view(1, 3, 1, 1).to(images.device)
            images.addcmul_(self._fill[images.device].to(images.dtype), box)
        return images

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.apply(images, *self.draw(images, generator))


class Compose:
    """Transforms one after the other, ending in normalised float32 images.

    Args:
        transforms: pixel transforms, then one ``Normalize``, then ``RandomErasing`` if any. A ``Flip`` directly before
            a ``PadCrop`` is done together with it.

    Raises:
        ValueError: another order.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        kinds = [type(transform) for transform in transforms]
        if kinds.count(Normalize) != 1 or RandomErasing in kinds[: kinds.index(Normalize)]:
            raise ValueError("transforms need exactly one Normalize, and RandomErasing only after it")
        if any(kind is not RandomErasing for kind in kinds[kinds.index(Normalize) + 1 :]):
            raise ValueError("after Normalize only RandomErasing may stand")
        self.transforms = _fused(list(transforms))

    def __call__(
        self, images: Tensor, generator: torch.Generator | None = None, cams: Tensor | None = None
    ) -> Tensor:
        """Transform a batch.

        Args:
            images: uint8 in 0..255 or floating point in 0..1, [B, 3, H, W]; unchanged afterwards.
            generator: of the images' device; ``Normalize`` alone needs none.
            cams: [B], where a ``CameraStyle`` is among the transforms.

        Returns:
            [B, 3, H, W] in float32.
        """
        return self.together(images, None, generator, cams)[0]

    def together(
        self,
        images: Tensor,
        masks: Tensor | None,
        generator: torch.Generator | None = None,
        cams: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Transform images, and move their masks with them; the images come out as without masks.

        Args:
            images, generator, cams: as above.
            masks: of the images' shape, uint8 or in 0..1, or None; their colours are kept, nothing of them is erased.

        Returns:
            The images, and the masks in 0..1 [B, 3, H, W] in float32 (or None).
        """
        batch, channels, height, width = images.shape
        step = batch
        if (
            images.device.type == "cpu"
        ):  # pieces that stay in the processor's cache: up to three times as fast
            step = max(1, CACHED_VALUES // (channels * height * width))
        out = buffers.empty(tuple(images.shape), torch.float32, images.device)
        moved = None if masks is None else torch.empty_like(out)
        for start in range(0, batch, step):
            piece = slice(start, start + step)
            given = None if cams is None else cams[piece]
            shown, covered = self._run(
                images[piece], None if masks is None else masks[piece], generator, given
            )
            out[piece].copy_(shown)
            if moved is not None and covered is not None:
                moved[piece].copy_(_UNCHANGED(covered))
        return out, moved

    def _run(
        self, images: Tensor, masks: Tensor | None, generator: torch.Generator | None, cams: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        for transform in self.transforms:
            if isinstance(transform, CameraStyle):
                images = transform(images, generator, cams)
            elif masks is not None and generator is not None and isinstance(transform, Geometric):
                images, masks = transform.together(images, masks, generator)
            else:
                images = transform(images, generator)
        return images, masks


_UNCHANGED = Normalize((0.0,) * 3, (1.0,) * 3)


def _fused(transforms: list[Transform]) -> list[Transform]:
    result: list[Transform] = []
    for transform in transforms:
        if isinstance(transform, PadCrop) and result and isinstance(result[-1], Flip):
            result[-1] = FlipPadCrop(result[-1], transform)
        else:
            result.append(transform)
    return result
