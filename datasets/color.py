"""Batch transforms of colour: jitter, and camera style by statistics. No loop over images."""

from __future__ import annotations

import torch

from crossreid.datasets.geometry import Tensor, to_float, uniform

GREY = (0.2989, 0.587, 0.114)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    return (GREY[0] * red + GREY[1] * green + GREY[2] * blue).unsqueeze(1)  # [B, 1, H, W]


def shift_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of images in 0..1 by ``shift`` [B] full circles, saturation and value kept."""
    value, low = images.amax(1), images.amin(1)
    spread = value - low
    divisor = torch.where(spread > 0, spread, 1)
    red, green, blue = images.unbind(1)
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = hue + 6 * shift.view(-1, 1, 1)  # in sixths of a circle
    channels = []
    for offset in (5.0, 3.0, 1.0):  # of red, green, blue: value - spread * clamp(min(k, 4 - k), 0, 1)
        place = torch.remainder(hue + offset, 6)
        channels.append(value - spread * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(channels, 1)


class ColorJitter:
    """Brightness, contrast, saturation and hue, each by a random amount and in an order of its own for each image.

    Args:
        brightness, contrast, saturation: factors are drawn from max(0, 1 - x)..1 + x.
        hue: circles, drawn from -x..x, at most 0.5.

    Source: torchvision's ``ColorJitter`` on tensors.
    """

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
    ) -> None:
        self.amounts = (brightness, contrast, saturation, hue)

    def draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Order of the four steps [B, 4], and their factors [B, 4] (of hue: the shift)."""
        batch = len(images)
        order = torch.rand(batch, 4, generator=generator, device=generator.device).argsort(1)
        low = [max(0.0, 1 - amount) for amount in self.amounts[:3]] + [-self.amounts[3]]
        high = [1 + amount for amount in self.amounts[:3]] + [self.amounts[3]]
        factors = [uniform(batch, a, b, generator) for a, b in zip(low, high)]
        return order, torch.stack(factors, 1)

    def apply(self, images: Tensor, order: Tensor, factors: Tensor) -> Tensor:
        """Images in 0..1, in the type given (uint8 becomes float32)."""
        result = to_float(images)
        for step in order.unbind(1):
            result = self._blend(result, step, factors)
            if self.amounts[HUE] > 0:
                result = _where(step == HUE, result, factors[:, HUE])
        return result if images.dtype == torch.uint8 else result.to(images.dtype)

    def _blend(self, images: Tensor, step: Tensor, factors: Tensor) -> Tensor:
        """Brightness, contrast, saturation: factor * image + (1 - factor) * (black, mean grey, grey)."""
        if not any(self.amounts[:HUE]):
            return images
        factor = factors.gather(1, step[:, None]).view(-1, 1, 1, 1)
        step = step.view(-1, 1, 1, 1)
        grey = _grey(images)
        other = torch.where(
            step == SATURATION, grey, torch.where(step == CONTRAST, grey.mean((1, 2, 3), True), 0.0)
        )
        blended = (factor * images + (1 - factor) * other).clamp_(0, 1)
        return torch.where(step == HUE, images, blended)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.apply(images, *self.draw(images, generator))


def _where(chosen: Tensor, images: Tensor, shift: Tensor) -> Tensor:
    """``shift_hue`` for the chosen images; on the CPU only they are computed."""
    if images.device.type == "cpu":
        rows = chosen.nonzero().squeeze(1)
        return images.index_copy(0, rows, shift_hue(images[rows], shift[rows]))
    return torch.where(chosen.view(-1, 1, 1, 1), shift_hue(images, shift), images)
