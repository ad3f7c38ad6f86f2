"""Feature vectors of a split with their labels, and what must hold before they are scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.distances import METRICS, product_type
from crossreid.engine.evaluation.metrics import Labels
from crossreid.engine.evaluation.rows import FeatureMatrix

Array = np.ndarray


@dataclass
class Features:
    """Feature vectors of a split with what is known of its images.

    Args:
        vectors: [N, D], any floating type.
        pids: [N] identities; in a gallery -1 is junk and is dropped, 0 is an ordinary identity.
        cams: [N] cameras.
        paths: [N] of the images, for messages and pictures.
    """

    vectors: torch.Tensor
    pids: torch.Tensor
    cams: torch.Tensor
    paths: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True)
class Prepared:
    """Checked features, the gallery without junk, ready to be scored."""

    query: FeatureMatrix
    gallery: FeatureMatrix
    labels: Labels


def prepare(
    query: Features,
    gallery: Features,
    *,
    metric: str,
    normalize: bool = False,
    device: torch.device | str | None = None,
) -> Prepared:
    """Check both sets and drop the junk of the gallery.

    Args:
        normalize: vectors count as if brought to length 1, as they always do with the cosine metric.

    Raises:
        InputError: whatever does not fit, in one line.
    """
    if metric not in METRICS:
        raise InputError(f"metric {metric!r} does not exist: choose {' or '.join(METRICS)}")
    for name, features in (("query", query), ("gallery", gallery)):
        shape = tuple(features.vectors.shape)
        if len(shape) != 2 or not features.vectors.is_floating_point() or 0 in shape:
            raise InputError(
                f"{name} features are {features.vectors.dtype} {shape}: need floating [N, D], N and D >= 1"
            )
        if not len(features.pids) == len(features.cams) == shape[0]:
            raise InputError(
                f"{name}: {shape[0]} features, but {len(features.pids)} identities and {len(features.cams)} cameras"
            )
    if query.vectors.shape[1] != gallery.vectors.shape[1]:
        raise InputError(
            f"query features have {query.vectors.shape[1]} dimensions, gallery features "
            f"{gallery.vectors.shape[1]}: extract both with one model"
        )
    real = gallery.pids != -1
    keep = None if bool(real.all()) else real.nonzero().flatten()
    device = gallery.vectors.device if device is None else device
    dtype = product_type(device, query.vectors, gallery.vectors)
    unit = normalize or metric == "cosine"
    rows = [
        FeatureMatrix(
            features.vectors, unit=unit, keep=kept, name=_namer(name, features), device=device, dtype=dtype
        )
        for name, features, kept in (("query", query, None), ("gallery", gallery, keep))
    ]
    labels = Labels(_labels(query, slice(None)), _labels(gallery, slice(None) if keep is None else keep))
    return Prepared(rows[0], rows[1], labels)


def _namer(split: str, features: Features) -> Callable[[int], str]:
    return lambda row: f"{split} image {row}" + (f" ({features.paths[row]})" if features.paths else "")


def _labels(features: Features, keep: slice | torch.Tensor) -> tuple[Array, Array]:
    return features.pids[keep].cpu().numpy(), features.cams[keep].cpu().numpy()
