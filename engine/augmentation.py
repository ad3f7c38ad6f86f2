"""From the config's ``INPUT`` to the batch transforms of training and of evaluation."""

from __future__ import annotations

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
    jitter: list[Transform] = [ColorJitter(*options.JITTER)] if any(options.JITTER) else []
    steps += jitter + geometry(cfg) if options.JITTER_FIRST else geometry(cfg) + jitter
    steps.append(Normalize(options.MEAN, options.STD))
    if options.ERASE:
        erasing = RandomErasing(
            options.ERASE,
            area=tuple(options.ERASE_AREA),
            law=options.ERASE_ASPECT,
            value=options.ERASE_VALUE,
        )
        steps.append(erasing)
    return Compose(steps)


def geometry(cfg: CfgNode) -> list[Transform]:
    """The part of the augmentation that moves pixels."""
    options = cfg.INPUT
    steps: list[Transform] = []
    if options.FLIP:
        steps.append(Flip(options.FLIP))
    if options.CROP and options.PAD:
        steps.append(PadCrop(options.PAD, options.PAD_VALUE))
    if options.CROP_AREA[0] < 1 and not options.CROP_RAW:  # those are cut before
        steps.append(AreaCrop(tuple(options.CROP_AREA), tuple(options.CROP_ASPECT)))
    return steps
