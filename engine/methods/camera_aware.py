"""Camera-aware instance learning with cross-domain mixup: the main method.

Source: Luo, Song, Zhang, Generalizing Person Re-Identification by Camera-Aware Invariance Learning and Cross-Domain
Mixup, ECCV 2020. Without a target it is the single-domain baseline: the source term alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from ignite.engine import Engine
from torch import nn
from torch.nn import functional as F
from yacs.config import CfgNode

from crossreid.datasets import Batch
from crossreid.engine.arithmetic import DTYPES
from crossreid.engine.data import Data
from crossreid.engine.distributed import unwrap
from crossreid.engine.evaluation.extraction import extract
from crossreid.engine.hardware import compiled
from crossreid.engine.log import LOGGER
from crossreid.engine.method import Method, TrainStep
from crossreid.engine.methods.common import (
    TrainingParts,
    direct_transfer,
    identity_step,
    new_backbone,
    pooling,
    training_parts,
)
from crossreid.losses.camera_blocks import CameraBlocks
from crossreid.losses.classification import mixup_virtual_class
from crossreid.losses.neighborhood import camera_agnostic_terms, camera_aware_terms
from crossreid.modeling.memory import FeatureMemory
from crossreid.modeling.reid import ReIDNet


def build_extractor(cfg: CfgNode) -> nn.Module:
    """The network without its classifier, with weights still to be loaded."""
    return ReIDNet(new_backbone(cfg, pretrained=False), num_classes=0, pool=pooling(cfg))


def build(cfg: CfgNode, data: Data) -> Method:
    """Network, memory, optimizer and training step."""
    settings, ranks = cfg.CAMERA_AWARE, data.ranks
    source, target = data.domains["source"], data.domains.get("target")
    sync = cfg.MODEL.SYNC_BN and ranks.world > 1
    net = ReIDNet(new_backbone(cfg), source.num_identities, sync_neck=sync, pool=pooling(cfg))
    assert net.classifier is not None
    new = [*net.pool.parameters(), *net.neck.parameters(), *net.classifier.parameters()]
    groups = [(net.backbone.parameters(), cfg.SOLVER.LR), (new, cfg.SOLVER.NEW_LR)]
    parts = training_parts(cfg, data, net, groups, static=cfg.SOLVER.ACCUMULATE == 1)
    if target is None:
        return Method(identity_step(data, parts), net, parts.state, parts.scheduler)

    rows, dtype = len(target.images), DTYPES[settings.MEMORY_DTYPE]
    memory = FeatureMemory(rows, net.dim, dtype=dtype).to(ranks.device)
    if target.num_cameras == 1 and settings.NEIGHBOR_MODE == "camera_aware":
        LOGGER.warning("the target has one camera: the inter-camera loss is impossible, its weight is 0")
    state = {**parts.state, "memory": memory}

    def prepare(epoch: int) -> None:
        if epoch == settings.SOURCE_EPOCHS + 1 and settings.MEMORY_INIT == "pass":
            LOGGER.info("filling the memory with the features of %d target images", len(target.images))
            features = extract(net, target.images, data.plain, ranks, parts.precision, label="memory")
            memory.features.copy_(F.normalize(features.vectors))
        if epoch == settings.SOURCE_EPOCHS + 2 and settings.MEMORY_INIT == "first":
            empty = (memory.features == 0).all(1).nonzero().flatten().cpu().numpy()
            if len(empty):
                LOGGER.info("filling the memory rows of %d target images that epoch 1 left out", len(empty))
                found = extract(
                    net, target.images, data.plain, ranks, parts.precision, label="memory", rows=empty
                )
                memory.features[torch.from_numpy(empty)] = F.normalize(found.vectors).to(memory.features)

    step = adaptation_step(cfg, data, parts, memory)
    return Method(step, net, state, parts.scheduler, prepare, direct_transfer(settings.SOURCE_EPOCHS))


def adaptation_step(cfg: CfgNode, data: Data, parts: TrainingParts, memory: FeatureMemory) -> TrainStep:
    """Source or mixed images, and the target's images against the memory; first the source's epochs alone."""
    settings, target = cfg.CAMERA_AWARE, data.domains["target"]
    source_step, precision = identity_step(data, parts), parts.precision
    classifier: nn.Linear = unwrap(parts.network).classifier  # type: ignore[assignment]
    blocks = CameraBlocks.of(target.cams)
    mixup_loss = compiled(cfg, mixup_virtual_class)
    repeats = data.most_repeats("target")

    def train_step(engine: Engine, batches: Mapping[str, Batch]) -> dict[str, torch.Tensor]:
        step, epoch = engine.state.iteration, engine.state.epoch - settings.SOURCE_EPOCHS
        if epoch < 1:
            return source_step(engine, batches)
        pids, index, cams = batches["source"].pids, batches["target"].index, batches["target"].cams
        images = data.augmented("source", batches["source"], step)  # [B/2, 3, H, W]
        target_images = data.augmented("target", batches["target"], step)
        mixed = settings.MIXUP and epoch >= settings.MIXUP_START
        if mixed:
            lam = mixing_share(cfg.SEED, step, settings.MIXUP_ALPHA)
            images = torch.lerp(target_images, images, lam)
        with precision.autocast():
            halves = parts.network(torch.cat([images, target_images]), joint=True)
        if mixed:
            agents = memory.features[index].float()  # [B/2, D]
            name, loss = "mixup", mixup_loss(halves.source, classifier.weight, pids, agents, lam)
        else:
            name, loss = "id", F.cross_entropy(halves.logits.float(), pids)
        features = F.normalize(halves.target)
        weights = active_weights(settings, epoch, target.num_cameras)
        neighbors, counts = neighbor_losses(weights, settings, memory, features, index, cams, blocks)
        told = {name: loss, **neighbors, **counts}
        for term, value in neighbors.items():
            loss = loss + weights[term] * value
        precision.step(loss, parts.optimizer)
        keep = 0.0 if epoch == 1 and settings.MEMORY_INIT == "first" else settings.KEEP
        memory.update(features, index, keep=keep, rounds=repeats)
        return {"loss": loss.detach(), **{name: value.detach() for name, value in told.items()}}

    return train_step


def active_weights(settings: CfgNode, epoch: int, num_cameras: int) -> dict[str, float]:
    """Weights of the neighbourhood losses that count in an epoch (from 1); with one camera there is no inter loss."""
    if settings.NEIGHBOR_MODE == "camera_agnostic":
        schedule = {"agnostic": (settings.AGNOSTIC_WEIGHT, settings.AGNOSTIC_START)}
    else:
        inter = settings.INTER_WEIGHT if num_cameras > 1 else 0.0
        schedule = {
            "intra": (settings.INTRA_WEIGHT, settings.INTRA_START),
            "inter": (inter, settings.INTER_START),
        }
    return {name: weight for name, (weight, start) in schedule.items() if weight > 0 and epoch >= start}


def neighbor_losses(
    weights: Mapping[str, float],
    settings: CfgNode,
    memory: FeatureMemory,
    features: torch.Tensor,
    index: torch.Tensor,
    cams: torch.Tensor,
    memory_cams: CameraBlocks,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The unweighted losses named in ``weights``, and the mean number of neighbours behind each."""
    if not weights:
        return {}, {}
    options = {"scale": settings.SCALE, "eps": settings.EPS}
    similarity = memory.similarity(features)  # [B/2, N]
    if "agnostic" in weights:
        terms = camera_agnostic_terms(similarity, index, **options)
        return {"agnostic": terms.intra}, {"agnostic_neighbors": terms.intra_neighbors.float().mean()}
    terms = camera_aware_terms(similarity, index, cams, memory_cams, **options)
    losses = {name: getattr(terms, name) for name in weights}
    counts = {f"{name}_neighbors": getattr(terms, f"{name}_neighbors").float().mean() for name in weights}
    return losses, counts


def mixing_share(seed: int, step: int, alpha: float) -> float:
    """λ ~ Beta(α, α) of a step: the source's share, the same on all ranks."""
    return float(np.random.default_rng((seed, step)).beta(alpha, alpha))
