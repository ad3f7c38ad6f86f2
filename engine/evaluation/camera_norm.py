"""Per-camera normalisation of features: takes out what the images of one camera have in common."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional as F

from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.features import Features, Integers, check_sets


def camera_normalize(
    features: torch.Tensor,
    cameras: Integers,
    *,
    reference: tuple[torch.Tensor, Integers] | None = None,
    min_images: int = 2,
) -> torch.Tensor:
    """Subtract each camera's mean, divide by its standard deviation, L2-normalise.

    Args:
        features: [N, D].
        cameras: [N]; -1 is unknown.
        reference: features [M, D] and cameras [M] that means and deviations come from; None: from the features.
        min_images: a camera with fewer images in the reference, or unknown, is normalised with the statistics of all.

    Returns:
        L2-normalised [N, D] in the features' type.

    Raises:
        InputError: numbers of features and cameras that differ.

    Source: Song et al., ICLR 2025.

    Examples:
        >>> camera_normalize(torch.tensor([[0.0, 1.0], [2.0, 5.0], [9.0, 9.0], [7.0, 8.0]]), [0, 0, 1, 1]).tolist()[0]
        [-0.7071067690849304, -0.7071067690849304]
    """
    known, known_cameras = (features, cameras) if reference is None else reference
    own, theirs = torch.as_tensor(cameras).cpu(), torch.as_tensor(known_cameras).cpu()
    for vectors, cams in ((features, own), (known, theirs)):
        if len(vectors) != len(cams):
            raise InputError(f"{len(vectors)} features, but {len(cams)} cameras")
    result = torch.empty_like(features)
    for camera in own.unique().tolist():
        like = (theirs == camera).nonzero().flatten()
        sample = known[like] if camera >= 0 and len(like) >= min_images else known
        exact = sample if sample.dtype == torch.float64 else sample.float()
        deviation, mean = (x.to(features.device) for x in torch.std_mean(exact, 0, correction=0))
        deviation = deviation.clamp_min(float(deviation.mean()) * 1e-4).clamp_min(
            1e-30
        )  # constant dimensions
        rows = (own == camera).nonzero().flatten()
        result[rows] = F.normalize((features[rows] - mean) / deviation).to(features.dtype)
    return result


def normalize_sets(query: Features, gallery: Features) -> tuple[Features, Features]:
    """Query and gallery with each camera normalised by the gallery's images of it, junk left out.

    Raises:
        InputError: sets that are empty or do not fit each other.
    """
    check_sets(query, gallery)
    real = gallery.pids != -1
    reference = gallery.vectors[real], gallery.cams[real]
    if not len(reference[0]):
        return query, gallery
    return (
        replace(query, vectors=camera_normalize(query.vectors, query.cams, reference=reference)),
        replace(gallery, vectors=camera_normalize(gallery.vectors, gallery.cams, reference=reference)),
    )
