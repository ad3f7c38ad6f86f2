"""Camera style of the target (``INPUT.CAMSTYLE``): generated copies as files, or statistics on the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from yacs.config import CfgNode

from crossreid.datasets import Splits
from crossreid.datasets.camstyle_copies import Styled, attach
from crossreid.datasets.images import ImageDataset
from crossreid.datasets.transforms import CameraStyle, camera_statistics
from crossreid.engine.errors import InputError

NAMED = 3  # images that the message about missing copies names


def find_copies(cfg: CfgNode, splits: Splits) -> Styled | None:
    """The generated copies of a target's training images; None where they are not wanted.

    Raises:
        InputError: a target with one camera, or copies that are missing, by image and camera.
        DatasetError: no folder with copies.
    """
    kind, train = cfg.INPUT.CAMSTYLE, splits.train
    if kind == "none":
        return None
    if train.num_cameras < 2:
        raise InputError(
            f"{splits.name}: its training images come from one camera, so that none can take another's style and "
            "camera-invariance is impossible: set INPUT.CAMSTYLE none"
        )
    if kind == "statistics":
        return None
    styled = attach(splits, kind)
    cams, own = np.unique(train.cams, return_inverse=True)
    known = np.isin(styled.cams, cams)
    missing = np.ones((len(train), len(cams)), bool)
    missing[np.arange(len(train)), own] = False
    missing[styled.slots[known], np.searchsorted(cams, styled.cams[known])] = False
    lacking = np.flatnonzero(missing.any(axis=1))
    if len(lacking):
        shown = [
            f"{Path(train.paths[i]).name} lacks {', '.join(map(str, cams[missing[i]]))}"
            for i in lacking[:NAMED]
        ]
        raise InputError(
            f"INPUT.CAMSTYLE {kind}: {len(lacking)} of {len(train)} training images of {splits.name} lack copies "
            f"({missing.sum()} files): in the style of cameras, {'; '.join(shown)}{' …' * (len(lacking) > NAMED)}; "
            "generate them, or set INPUT.CAMSTYLE statistics, which needs none"
        )
    return styled


def style_transform(cfg: CfgNode, images: ImageDataset) -> CameraStyle | None:
    """The transform of ``INPUT.CAMSTYLE`` statistics for a target."""
    return CameraStyle(camera_statistics(images)) if cfg.INPUT.CAMSTYLE == "statistics" else None
