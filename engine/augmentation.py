"""From the config's ``INPUT`` to the batch transforms of training, of evaluation and of masks."""

from __future__ import annotations

from typing import Protocol

import torch
from yacs.config import CfgNode

from crossreid.datasets.transforms import (
    AreaCrop,
    CameraStyle,
    ColorJitter,
    Compose,
    Flip,
    Normalize,
    PadCrop,
    RandomErasing,
    Transform,
)


def plain_transform(cfg: CfgNode) -> Compose:
    """Normalisation alone, for evaluation."""
    return Compose([Normalize(cfg.INPUT.MEAN, cfg.INPUT.STD)])


def train_transform(cfg: CfgNode, style: CameraStyle | None = None) -> Compose:
    """The augmentation of ``INPUT``: camera style, flip, crops, colour jitter, normalisation, erasing."""
    options = cfg.INPUT
    steps: list[Transform] = [style] if style else []
    steps += geometry(cfg, options.PAD_VALUE)
    if any(options.JITTER):
        steps.append(ColorJitter(*options.JITTER))
    steps.append(Normalize(options.MEAN, options.STD))
    if options.ERASE:
        steps.append(RandomErasing(options.ERASE, area=tuple(options.ERASE_AREA), value="mean"))
    return Compose(steps)


def geometry(cfg: CfgNode, pad_value: int) -> list[Transform]:
    """The part of the augmentation that moves pixels."""
    options = cfg.INPUT
    steps: list[Transform] = []
    if options.FLIP:
        steps.append(Flip(options.FLIP))
    if options.CROP and options.PAD:
        steps.append(PadCrop(options.PAD, value=pad_value))
    if options.CROP_AREA[0] < 1:
        steps.append(AreaCrop(tuple(options.CROP_AREA), tuple(options.CROP_ASPECT)))
    return steps


def mask_transform(cfg: CfgNode, style: CameraStyle | None = None) -> Compose:
    """What moves a mask with its image: the same draws as ``train_transform``, black borders, colours untouched."""
    options = cfg.INPUT
    steps: list[Transform] = [Undone(style)] if style else []
    steps += geometry(cfg, 0)
    if any(options.JITTER):
        steps.append(Undone(ColorJitter(*options.JITTER)))
    if options.ERASE:
        steps.append(Undone(RandomErasing(options.ERASE, area=tuple(options.ERASE_AREA))))
    return Compose([*steps, Normalize([0.0] * 3, [1.0] * 3)])


class Drawing(Protocol):
    """A transform that draws its random numbers apart from applying them."""

    def draw(self, images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, ...]: ...


class Undone:
    """Draws what a colour transform would draw and leaves the images: the next draws stay those of the images."""

    def __init__(self, transform: Drawing) -> None:
        self.transform = transform

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        self.transform.draw(images, generator)
        return images
