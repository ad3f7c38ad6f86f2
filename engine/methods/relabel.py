"""Pseudo-labels of the target: what ``CLUSTER`` of a method asks for, and what is logged of the clusters."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from yacs.config import CfgNode

from crossreid.engine.data import Data
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.clusters import ClusterOptions, cluster, describe
from crossreid.engine.log import LOGGER

FIRST_AVERAGE = 3  # K2_INTRA and K2_INTER of the first clustering, as in the published program


def check_target(settings: CfgNode, data: Data, section: str) -> None:
    """See before anything starts that the target can be clustered as ``CLUSTER`` of a method's section says.

    Raises:
        InputError: fewer images than neighbours; cameras that are needed and unknown, or one alone.
    """
    split = data.domains["target"].images.split
    plain = settings.DISTANCE == "jaccard"
    keys = ("K1", "K2") if plain else ("K1_INTRA", "K1_INTER", "K2_INTRA", "K2_INTER")
    for key in (*keys, "MIN_SAMPLES"):
        if settings[key] > len(split):
            raise InputError(
                f"{section}.CLUSTER.{key} is {settings[key]}: {split.name} has {len(split)} images, lower it"
            )
    if settings.DISTANCE == "ca_jaccard":
        check_cameras(data, f"{section}.CLUSTER.DISTANCE ca_jaccard", "set it to jaccard")
    for key in ("CAMERA_NORM", "DROP_SINGLE_CAMERA"):
        if settings[key]:
            check_cameras(data, f"{section}.CLUSTER.{key} true", "set it to false")


def check_cameras(data: Data, wish: str, advice: str) -> None:
    """Raise InputError if cameras of the target are unknown, or if there is only one."""
    split = data.domains["target"].images.split
    if unknown := int((split.cams < 0).sum()):
        raise InputError(
            f"{wish} needs cameras: {unknown} of {len(split)} images of {split.name} have none (-1); {advice}"
        )
    if split.num_cameras < 2:
        raise InputError(
            f"{wish} needs several cameras: all {len(split)} images of {split.name} are of one; {advice}"
        )


def cluster_options(settings: CfgNode, *, first: bool) -> ClusterOptions:
    """The options of a ``CLUSTER`` section; ``first``: of the run's first clustering."""
    return ClusterOptions(
        distance=settings.DISTANCE,
        eps=settings.EPS,
        min_samples=settings.MIN_SAMPLES,
        k1=settings.K1,
        k2=settings.K2,
        k1_intra=settings.K1_INTRA,
        k1_inter=settings.K1_INTER,
        k2_intra=FIRST_AVERAGE if first else settings.K2_INTRA,
        k2_inter=FIRST_AVERAGE if first else settings.K2_INTER,
        camera_norm=settings.CAMERA_NORM,
        several_cameras=settings.DROP_SINGLE_CAMERA,
        index=settings.INDEX,
    )


def find_labels(
    settings: CfgNode, data: Data, features: torch.Tensor, *, epoch: int, first: bool, identities: int
) -> NDArray[np.int64]:
    """Clusters of the target's images, the same on every rank, and what they look like in the log.

    Args:
        settings: ``CLUSTER`` of the method's section.
        features: [N, D] of the target's images, complete on every rank.
        epoch: for the log.
        first: whether this is the run's first clustering.
        identities: clusters that a batch wants; fewer are logged, and repeat in it.

    Returns:
        [N] clusters 0..C-1 with C >= 2; -1: outlier.

    Raises:
        InputError: fewer than two clusters, whatever the radius.
    """
    cams = data.domains["target"].images.split.cams
    options = cluster_options(settings, first=first)
    labels = cluster(features, cams, options, ranks=data.ranks)
    found = describe(labels, cams)
    LOGGER.info(
        "epoch %d: %d clusters of %.0f %% of the images, %d outliers; sizes %.0f, %.0f, %.0f (10, 50, 90 %%); %.1f "
        "cameras a cluster, %.0f %% of the clusters in one camera",
        epoch, found["clusters"], 100 * found["clustered"], (labels < 0).sum(), found["size_q10"],
        found["size_median"], found["size_q90"], found["cameras"], 100 * found["single_camera"],
    )  # fmt: skip
    if found["clusters"] < identities:
        LOGGER.warning(
            "%d clusters are fewer than the %d that a batch holds, they repeat in it: lower DATALOADER.BATCH_SIZE, "
            "raise DATALOADER.INSTANCES, or change CLUSTER.EPS",
            found["clusters"], identities,
        )  # fmt: skip
    return labels


def repeats(identities: int, images: int, clusters: int) -> int:
    """How often a cluster can come in one batch of ``identities`` x ``images`` (over all ranks)."""
    return images * (1 if clusters >= identities else 1 + -(-identities // clusters))
