"""Batch transforms that move pixels: flip, pad and crop, area crop, rotation. One draw an image, no loop over images.

Each class has ``draw(images, generator)``, the random parameters of a batch, and ``apply(images, *parameters)``.
Images are uint8 in 0..255 or floating point in 0..1, [B, 3, H, W], on any device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from crossreid.datasets import buffers

Tensor = torch.Tensor


def uniform(count: int | tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    shape = (count,) if isinstance(count, int) else count
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def to_float(images: Tensor) -> Tensor:
    """Floating-point images in 0..1; half precision is raised to float32."""
    if images.dtype == torch.uint8:
        return buffers.empty(tuple(images.shape), torch.float32, images.device).copy_(images).div_(255)
    return images.float() if images.dtype in (torch.float16, torch.bfloat16) else images


def like(result: Tensor, images: Tensor) -> Tensor:
    """A floating-point result in the type of the images it was computed from, uint8 being rounded."""
    if images.dtype == torch.uint8:
        return result.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
    return result.to(images.dtype)


def windows(
    images: Tensor, flip: Tensor, top: Tensor, left: Tensor, pad: int, value: Sequence[float]
) -> Tensor:
    """Flip, pad and crop in one gather.

    Args:
        images: [B, 3, H, W].
        flip: [B] 0 or 1.
        top, left: [B] corner of the crop in the padded image, 0..2 * pad.
        pad: pixels added on each side.
        value: RGB of the padding, 0..255.
    """
    batch, channels, height, width = images.shape
    shape = (2, batch, channels, height + 2 * pad, width + 2 * pad)
    padded = buffers.empty(shape, images.dtype, images.device)  # as it is, and mirrored
    grey = len(set(value)) == 1
    for channel in range(1 if grey else channels):
        part = padded if grey else padded[:, :, channel : channel + 1]
        fill = value[channel] if images.dtype == torch.uint8 else value[channel] / 255
        part.narrow(3, 0, pad).fill_(fill)
        part.narrow(3, pad + height, pad).fill_(fill)
        part.narrow(4, 0, pad).fill_(fill)
        part.narrow(4, pad + width, pad).fill_(fill)
    inside = padded.narrow(3, pad, height).narrow(4, pad, width)
    inside[0].copy_(images)
    inside[1].copy_(images.flip(3))
    every = (
        padded.unfold(3, height, 1).unfold(4, width, 1).permute(0, 1, 3, 4, 2, 5, 6)
    )  # a view: all crops there are
    return every[flip, torch.arange(batch, device=images.device), top, left]


class Geometric:
    """A transform that moves pixels: ``draw`` gives the random numbers of a batch, ``apply`` uses them."""

    def draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def apply(self, images: Tensor, *drawn: Tensor) -> Tensor:
        raise NotImplementedError

    def apply_to_masks(self, masks: Tensor, *drawn: Tensor) -> Tensor:
        """Move the masks of the images with the same numbers; what comes in from outside is black."""
        return self.apply(masks, *drawn)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.apply(images, *self.draw(images, generator))

    def together(self, images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Move images and their masks alike."""
        drawn = self.draw(images, generator)
        return self.apply(images, *drawn), self.apply_to_masks(masks, *drawn)


class Flip(Geometric):
    """Mirror left and right with probability ``p``."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor]:
        return ((uniform(len(images), 0, 1, generator) < self.p).long(),)

    def apply(self, images: Tensor, *drawn: Tensor) -> Tensor:
        (flip,) = drawn
        return torch.where(flip.view(-1, 1, 1, 1) == 1, images.flip(3), images)


class PadCrop(Geometric):
    """Pad every side by ``pad`` pixels of a grey level or an RGB colour (0..255), then crop the old size anywhere."""

    def __init__(self, pad: int, value: float | Sequence[float] = 127) -> None:
        self.pad, self.value = pad, as_floats(value)

    def draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        shape = (2, len(images))
        top, left = torch.randint(2 * self.pad + 1, shape, generator=generator, device=generator.device)
        return top, left

    def apply(self, images: Tensor, *drawn: Tensor) -> Tensor:
        top, left = drawn
        return windows(images, torch.zeros_like(top), top, left, self.pad, self.value)

    def apply_to_masks(self, masks: Tensor, *drawn: Tensor) -> Tensor:
        return PadCrop(self.pad, 0).apply(masks, *drawn)


class FlipPadCrop(Geometric):
    """``Flip`` and then ``PadCrop`` with the same draws, in one gather."""

    def __init__(self, flip: Flip, crop: PadCrop) -> None:
        self.flip, self.crop = flip, crop

    def draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        return *self.flip.draw(images, generator), *self.crop.draw(images, generator)

    def apply(self, images: Tensor, *drawn: Tensor) -> Tensor:
        flip, top, left = drawn
        return windows(images, flip, top, left, self.crop.pad, self.crop.value)

    def apply_to_masks(self, masks: Tensor, *drawn: Tensor) -> Tensor:
        return FlipPadCrop(self.flip, PadCrop(self.crop.pad, 0)).apply(masks, *drawn)


ATTEMPTS = 10  # draws of a box an image; where none fits, the image stays as it is


def first_fit(fits: Tensor, *values: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Of several draws an image [B, attempts] the first that fits: whether there is one [B], and its values [B]."""
    place = fits.int().argmax(1, keepdim=True)
    return fits.any(1), tuple(value.gather(1, place).squeeze(1) for value in values)


def sample(images: Tensor, x: Tensor, y: Tensor, mode: str) -> Tensor:
    """Read images at pixel positions (0 is the centre of the first pixel), zeros outside.

    Args:
        images: [B, 3, H, W], any type.
        x, y: [B, H, W] or broadcastable to it.
        mode: "bilinear" or "nearest".
    """
    height, width = images.shape[2:]
    x, y = (x + 0.5) * (2 / width) - 1, (y + 0.5) * (2 / height) - 1
    pixels = to_float(images)
    shape = (len(images), height, width)
    grid = torch.stack([x.expand(shape), y.expand(shape)], -1).to(pixels.dtype)  # [B, H, W, 2]
    return like(F.grid_sample(pixels, grid, mode=mode, padding_mode="zeros", align_corners=False), images)


class AreaCrop(Geometric):
    """Crop a random box and resize it to the old size (bilinear).

    Args:
        area: range of the crop area as a fraction of the image, drawn uniformly.
        aspect: range of height / width, drawn uniformly; None: the width is drawn uniformly from those that give the
            area, so that a box of share a is between a * W and W wide.

    Source: ECN's random-sized rectangle crop (area 0.64-1, aspect 2-3); None: PAUL's second view.
    """

    def __init__(
        self, area: tuple[float, float] = (0.64, 1.0), aspect: tuple[float, float] | None = (2.0, 3.0)
    ) -> None:
        self.area, self.aspect = area, aspect

    def draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Corner and size of the boxes in pixels: top, left, height, width, each [B]."""
        batch, _, full_height, full_width = images.shape
        tries = (batch, ATTEMPTS)
        share = uniform(tries, *self.area, generator)
        area = share * (full_height * full_width)
        if self.aspect is None:
            width = (share + (1 - share) * uniform(tries, 0, 1, generator)) * full_width
            height, width = (area / width).round().clamp(max=full_height), width.round()
        else:
            aspect = uniform(tries, *self.aspect, generator)
            height, width = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        fits = (height <= full_height) & (width <= full_width) & (height >= 1) & (width >= 1)
        found, (height, width) = first_fit(fits, height, width)
        height, width = torch.where(found, height, full_height), torch.where(found, width, full_width)
        top = (uniform(batch, 0, 1, generator) * (full_height - height + 1)).floor()
        left = (uniform(batch, 0, 1, generator) * (full_width - width + 1)).floor()
        return top, left, height, width

    def apply(self, images: Tensor, *drawn: Tensor) -> Tensor:
        top, left, height, width = drawn
        full_height, full_width = images.shape[2:]
        y = _inside(full_height, top, height)[:, :, None]
        x = _inside(full_width, left, width)[:, None, :]
        return sample(images, x, y, "bilinear")


class WidthCrop(AreaCrop):
    """Cut a box of random area whose width is drawn first, from the area's share of the full width up to all of it.

    Source: the second view of PAUL's program (Yang et al., CVPR 2019).
    """

    def __init__(self, area: tuple[float, float]) -> None:
        super().__init__(area)

    def draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Corner and size of the boxes in pixels: top, left, height, width, each [B]."""
        batch, _, full_height, full_width = images.shape
        share = uniform(batch, *self.area, generator)
        least = (share * full_width).round()
        width = (least + uniform(batch, 0, 1, generator) * (full_width - least)).floor().clamp_min(1)
        height = (share * full_height * full_width / width).floor().clamp(1, full_height)
        top = (uniform(batch, 0, 1, generator) * (full_height - height + 1)).floor()
        left = (uniform(batch, 0, 1, generator) * (full_width - width + 1)).floor()
        return top, left, height, width


def _inside(full: int, start: Tensor, length: Tensor) -> Tensor:
    """Where ``full`` output pixels lie in a stretch of the input, kept within its outer pixels' centres [B, full]."""
    places = (torch.arange(full, device=start.device) + 0.5)[None] * (length / full)[:, None] - 0.5
    return start[:, None] + torch.minimum(places.clamp_min(0), (length - 1)[:, None])


class Rotation(Geometric):
    """Turn each image about its centre by an angle drawn from -degrees..degrees; corners become black.

    Source: torchvision's ``RandomRotation`` (nearest pixel by default, as there).
    """

    def __init__(self, degrees: float, mode: str = "nearest") -> None:
        self.degrees, self.mode = degrees, mode

    def draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor]:
        return (uniform(len(images), -self.degrees, self.degrees, generator),)

    def apply(self, images: Tensor, *drawn: Tensor) -> Tensor:
        (degrees,) = drawn
        height, width = images.shape[2:]
        angle = (degrees * (math.pi / 180)).view(-1, 1, 1)
        y = (torch.arange(height, device=images.device) - (height - 1) / 2)[None, :, None]
        x = (torch.arange(width, device=images.device) - (width - 1) / 2)[None, None, :]
        turned_x = angle.cos() * x - angle.sin() * y + (width - 1) / 2
        turned_y = angle.sin() * x + angle.cos() * y + (height - 1) / 2
        return sample(images, turned_x, turned_y, self.mode)


def as_floats(values: float | Sequence[float]) -> tuple[float, ...]:
    """Three numbers, one a channel, from one or three."""
    given = tuple(map(float, values)) if isinstance(values, Sequence) else (float(values),)
    return given * 3 if len(given) == 1 else given
