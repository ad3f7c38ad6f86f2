"""The supervised baseline of the field on one or several labelled domains: what every adaptation starts from.

Classification with smoothed labels behind a batch-norm neck, batch-hard triplets before it; warm-up, last stride 1 and
random erasing are keys of ``SOLVER``, ``MODEL`` and ``INPUT``. There is no centre loss. Triplets span all ranks.

Source: Luo et al., Bag of Tricks and a Strong Baseline for Deep Person Re-identification, CVPR-W 2019; for ViTs: He et
al., TransReID, ICCV 2021.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from crossreid.datasets import Batch
from crossreid.engine.data import Data
from crossreid.engine.distributed import gathered
from crossreid.engine.errors import InputError
from crossreid.engine.method import Method, TrainStep
from crossreid.engine.methods.common import (
    TrainingParts,
    camera_inputs,
    joined_identities,
    new_backbone,
    pooling,
    training_cameras,
    training_parts,
)
from crossreid.losses.triplet import batch_hard, soft_batch_hard
from crossreid.modeling.side_information import no_cameras
from crossreid.modeling.strong_net import StrongNet


def build_extractor(cfg: CfgNode) -> nn.Module:
    """The network without its classifiers, with weights still to be loaded."""
    return _network(cfg, 0, no_cameras(), pretrained=False)


def _network(cfg: CfgNode, classes: int, cameras: Tensor | None, *, pretrained: bool = True) -> StrongNet:
    settings, backbone = cfg.SUPERVISED, new_backbone(cfg, pretrained=pretrained, cameras=cameras)
    if settings.PARTS and cfg.MODEL.COMPILE:
        raise InputError(
            "SUPERVISED.PARTS copies a block, which MODEL.COMPILE true leaves out: set it to false"
        )
    return StrongNet(
        backbone, classes, pool=pooling(cfg), parts=settings.PARTS, feature=settings.FEATURE
    )  # fmt: skip


def build(cfg: CfgNode, data: Data) -> Method:
    """Network, optimizer and training step.

    Raises:
        InputError: a domain of one identity.
    """
    count, firsts = joined_identities(cfg, data)
    net = _network(cfg, count, training_cameras(data) if cfg.MODEL.SIE else None)
    assert net.classifier is not None
    parts = [] if net.parts is None else net.parts.parameters()
    new = [*net.pool.parameters(), *net.neck.parameters(), *net.part_necks.parameters()]
    groups = [
        ([*net.backbone.parameters(), *parts], cfg.SOLVER.LR),
        ([*new, *net.classifier.parameters()], cfg.SOLVER.NEW_LR),
    ]
    made = training_parts(cfg, data, net, groups)
    return Method(training_step(cfg, data, made, firsts), net, made.state, made.scheduler)


def training_step(cfg: CfgNode, data: Data, parts: TrainingParts, firsts: Mapping[str, int]) -> TrainStep:
    """Classification and triplets of all domains' images together.

    Args:
        firsts: each domain's first identity among all; the identities of the domains follow each other.
    """
    settings, ranks = cfg.SUPERVISED, data.ranks
    beside = camera_inputs(parts.network, data)

    def triplet(pooled: Tensor, pids: Tensor) -> Tensor:
        rows = gathered(pooled.float(), ranks)
        if settings.TRIPLET == "soft":
            return soft_batch_hard(rows, pids)
        return batch_hard(rows, pids, margin=settings.TRIPLET_MARGIN)

    def train_step(engine: Engine, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        step = engine.state.iteration
        images = torch.cat([data.augmented(name, batches[name], step) for name in firsts])
        pids = torch.cat([batches[name].pids + first for name, first in firsts.items()])
        with parts.precision.autocast():
            found = parts.network(images, **beside(firsts, batches))
        smoothing = settings.LABEL_SMOOTHING
        losses = {
            "id": halved([F.cross_entropy(x.float(), pids, label_smoothing=smoothing) for x in found.logits])
        }
        loss = losses["id"]
        if settings.TRIPLET_WEIGHT:
            everyone = gathered(pids, ranks)
            losses["triplet"] = halved([triplet(x, everyone) for x in found.pooled])
            loss = loss + settings.TRIPLET_WEIGHT * losses["triplet"]
        parts.precision.step(loss, parts.optimizer)
        return {name: value.detach() for name, value in {"loss": loss, **losses}.items()}

    return train_step


def halved(losses: list[Tensor]) -> Tensor:
    """The whole image's loss; with parts half of it and half of their mean, as in TransReID."""
    whole, *parts = losses
    return 0.5 * whole + 0.5 * torch.stack(parts).mean() if parts else whole
