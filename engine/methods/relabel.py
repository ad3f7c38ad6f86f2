"""Pseudo-labels of the target: features, distances, clusters, and what is told of them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from yacs.config import CfgNode

from crossreid.engine.data import Data
from crossreid.engine.distributed import on_first
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.camera_jaccard import camera_jaccard
from crossreid.engine.evaluation.camera_norm import camera_normalised
from crossreid.engine.evaluation.clusters import dbscan, describe, without_single_camera
from crossreid.engine.evaluation.jaccard import jaccard
from crossreid.engine.log import LOGGER

FIRST_AVERAGE = 3  # K2_INTRA and K2_INTER of the first clustering, as in the published program


def check_target(settings: CfgNode, data: Data, section: str) -> None:
    """See before anything starts that the target can be clustered as ``CLUSTER`` of a method's section says.

    Raises:
        InputError: fewer images than neighbours, cameras that are unknown or one alone where they are needed.
    """
    split = data.domains["target"].images.split
    camera_aware = settings.DISTANCE == "ca_jaccard"
    needed = {"K1": settings.K1, "K2": settings.K2, "MIN_SAMPLES": settings.MIN_SAMPLES}
    if camera_aware:
        needed = {"K1_INTRA": settings.K1_INTRA, "K1_INTER": settings.K1_INTER} | {
            "MIN_SAMPLES": settings.MIN_SAMPLES
        }
    for key, value in needed.items():
        if value > len(split):
            raise InputError(
                f"{section}.CLUSTER.{key} {value}: {split.name} has {len(split)} images; lower it"
            )
    wishes = {
        "DISTANCE ca_jaccard (set jaccard)": camera_aware,
        "CAMERA_NORM true (set false)": settings.CAMERA_NORM,
        "DROP_SINGLE_CAMERA true (set false)": settings.DROP_SINGLE_CAMERA,
    }
    wanted = [name for name, wish in wishes.items() if wish]
    if wanted:
        check_cameras(
            data, f"{section}.CLUSTER.{wanted[0]}", one_allowed=settings.CAMERA_NORM and len(wanted) == 1
        )


def check_cameras(data: Data, wish: str, *, one_allowed: bool = False) -> None:
    """Raise InputError if the target's cameras are unknown, or if there is only one."""
    split = data.domains["target"].images.split
    if unknown := int((split.cams < 0).sum()):
        raise InputError(
            f"{wish} needs cameras: {unknown} of the {len(split)} images of {split.name} have none (-1)"
        )
    if split.num_cameras < 2 and not one_allowed:
        raise InputError(f"{wish} needs several cameras: all images of {split.name} are of one")


def find_labels(
    settings: CfgNode, data: Data, features: torch.Tensor, section: str, *, first: bool
) -> NDArray[np.int64]:
    """Clusters of the target's images, the same on every rank.

    Args:
        settings: ``CLUSTER`` of the method's section.
        features: [N, D] of the target's images, complete on every rank.
        section: name of the method's section, for messages.
        first: whether this is the run's first clustering.

    Returns:
        [N] clusters 0..C-1 with C >= 2; -1: outlier.

    Raises:
        InputError: fewer than two clusters, whatever the radius.
    """
    cams = data.domains["target"].images.split.cams
    unit = F.normalize(features)
    if settings.CAMERA_NORM:
        unit = camera_normalised(unit, cams)
    limit = max(settings.EPS, settings.EPS_MAX)
    if settings.DISTANCE == "jaccard":
        distance = jaccard(unit, k1=settings.K1, k2=settings.K2, limit=limit, ranks=data.ranks)
    else:
        k2 = (FIRST_AVERAGE, FIRST_AVERAGE) if first else (settings.K2_INTRA, settings.K2_INTER)
        distance = camera_jaccard(
            unit, cams, k1_intra=settings.K1_INTRA, k1_inter=settings.K1_INTER, k2_intra=k2[0], k2_inter=k2[1],
            limit=limit, ranks=data.ranks,
        )  # fmt: skip
    labels: NDArray[np.int64] = on_first(data.ranks, lambda: clusters_of(settings, distance, cams, section))
    return labels


def clusters_of(
    settings: CfgNode, distance: torch.Tensor, cams: NDArray[np.int64], section: str
) -> NDArray[np.int64]:
    """DBSCAN, with a larger radius as long as there are fewer than two clusters."""
    eps = settings.EPS
    while True:
        labels = dbscan(distance, eps=eps, min_samples=settings.MIN_SAMPLES)
        if settings.DROP_SINGLE_CAMERA:
            labels = without_single_camera(labels, cams)
        count = int(labels.max(initial=-1)) + 1
        if count >= 2:
            return labels
        wider = round(eps + settings.EPS_STEP, 9)
        if count == 1 or not settings.EPS_STEP or wider > settings.EPS_MAX:
            advice = "lower" if count == 1 else "raise"
            raise InputError(
                f"DBSCAN found {count or 'no'} cluster{'s' * (count != 1)} of {len(labels)} images at radius {eps:g}: "
                f"{advice} {section}.CLUSTER.EPS{'' if count else ' and EPS_MAX, lower MIN_SAMPLES'}, or start from "
                "better weights (MODEL.WEIGHTS)"
            )
        LOGGER.warning("no cluster at radius %g, trying %g (%s.CLUSTER.EPS_STEP)", eps, wider, section)
        eps = wider


def tell(labels: NDArray[np.int64], data: Data, epoch: int, identities: int) -> None:
    """Log what a clustering looks like, and warn if it fills no batch.

    Args:
        identities: clusters that a batch wants.
    """
    if not data.ranks.first:
        return
    found = describe(labels, data.domains["target"].images.split.cams)
    LOGGER.info(
        "epoch %d: %d clusters of %.0f %% of the images, %d outliers; sizes %.0f, %.0f, %.0f (10, 50, 90 %%); %.1f "
        "cameras a cluster, %.0f %% of the clusters in one camera",
        epoch, found["clusters"], 100 * found["clustered"], (labels < 0).sum(), found["size_q10"],
        found["size_median"], found["size_q90"], found["cameras"], 100 * found["single_camera"],
    )  # fmt: skip
    if found["clusters"] < identities:
        LOGGER.warning(
            "%d clusters are fewer than the %d that a batch holds, they repeat in it: lower DATALOADER.BATCH_SIZE, "
            "raise DATALOADER.INSTANCES, or change the radius (CLUSTER.EPS)",
            found["clusters"], identities,
        )  # fmt: skip


def repeats(identities: int, images: int, clusters: int) -> int:
    """How often a cluster can come in one batch of ``identities`` x ``images`` (over all ranks)."""
    return images * (1 if clusters >= identities else 1 + -(-identities // clusters))
