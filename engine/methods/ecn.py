"""ECN: exemplar-, camera- and neighbourhood-invariance over a memory of target images.

Source: Zhong et al., Invariance Matters: Exemplar Memory for Domain Adaptive Person Re-identification, CVPR 2019.
Camera-invariance is in the data (``INPUT.CAMSTYLE``): a target image comes as itself or in another camera's style, with
the same memory row. Without a target it is the source-only baseline.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from ignite.engine import Engine
from torch import nn
from torch.nn import functional as F
from yacs.config import CfgNode

from crossreid.datasets import Batch
from crossreid.engine.data import Data
from crossreid.engine.errors import InputError
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
from crossreid.losses.disentangle import mmd
from crossreid.losses.invariance import exemplar_invariance
from crossreid.modeling.ecn import ECNNet
from crossreid.modeling.memory import FeatureMemory


def build_extractor(cfg: CfgNode) -> nn.Module:
    """The network without its classifier, with weights still to be loaded."""
    return build_network(cfg, 0, pretrained=False)


def build_network(cfg: CfgNode, num_classes: int, *, pretrained: bool = True) -> ECNNet:
    settings = cfg.ECN
    return ECNNet(
        new_backbone(cfg, pretrained=pretrained),
        num_classes,
        embedding=settings.EMBEDDING,
        dropout=settings.DROPOUT,
        frozen_stages=settings.FROZEN_STAGES,
        shortcut_norms=settings.SHORTCUT_NORMS,
        pool=pooling(cfg),
    )


def build(cfg: CfgNode, data: Data) -> Method:
    """Network, memory, optimizer and training step.

    Raises:
        InputError: more neighbours than target images.
    """
    settings, model = cfg.ECN, cfg.MODEL
    source, target = data.domains["source"], data.domains.get("target")
    if target is not None and len(target.images) < settings.NEIGHBORS:
        raise InputError(
            f"ECN.NEIGHBORS {settings.NEIGHBORS} exceeds the memory: {target.images.split.name} has "
            f"{len(target.images)} images; lower it"
        )
    if settings.FROZEN_STAGES and model.PRETRAINED == "none" and not (model.WEIGHTS or cfg.RESUME):
        LOGGER.warning(
            "ECN.FROZEN_STAGES %d keeps random weights (MODEL.PRETRAINED none): set it to 0 or give weights",
            settings.FROZEN_STAGES,
        )
    net = build_network(cfg, source.num_identities)
    groups = [(net.backbone.parameters(), cfg.SOLVER.LR), (net.new_layers(), cfg.SOLVER.NEW_LR)]
    parts = training_parts(cfg, data, net, groups)
    if target is None:
        return Method(identity_step(data, parts), net, parts.state, parts.scheduler)
    memory = FeatureMemory(len(target.images), settings.EMBEDDING).to(data.ranks.device)
    step = adaptation_step(cfg, data, parts, memory)
    milestones = direct_transfer(settings.SOURCE_EPOCHS)
    return Method(step, net, {**parts.state, "memory": memory}, parts.scheduler, milestones=milestones)


def adaptation_step(cfg: CfgNode, data: Data, parts: TrainingParts, memory: FeatureMemory) -> TrainStep:
    """Identities of the source, and the target's images against the memory; first the source's epochs alone."""
    settings, source_step, precision = cfg.ECN, identity_step(data, parts), parts.precision
    repeats = data.most_repeats("target")
    invariance, domain_gap = compiled(cfg, exemplar_invariance), compiled(cfg, mmd)

    def train_step(engine: Engine, batches: Mapping[str, Batch]) -> dict[str, torch.Tensor]:
        step, epoch = engine.state.iteration, engine.state.epoch - settings.SOURCE_EPOCHS
        if epoch < 1:
            return source_step(engine, batches)
        pids, index = batches["source"].pids, batches["target"].index
        images = data.augmented("source", batches["source"], step)  # [B/2, 3, H, W]
        target_images = data.augmented("target", batches["target"], step)
        with precision.autocast():
            found = parts.network(images, target_images, joint=settings.JOINT_BATCH)
        k = settings.NEIGHBORS if epoch >= settings.NEIGHBOR_START else 0
        similarity = memory.similarity(found.exemplars)  # [B/2, N]
        losses = {
            "id": F.cross_entropy(found.logits.float(), pids),
            "invariance": invariance(similarity, index, temperature=settings.TEMPERATURE, k=k),
        }
        loss = (1 - settings.LAMBDA) * losses["id"] + settings.LAMBDA * losses["invariance"]
        if settings.MMD:
            losses["mmd"] = domain_gap(found.target, found.source, sigmas=settings.MMD_SIGMAS)
            loss = loss + settings.LAMBDA_EXT * losses["mmd"]
        precision.step(loss, parts.optimizer)
        memory.update(found.exemplars, index, keep=kept_share(settings.ALPHA, epoch), rounds=repeats)
        return {name: value.detach() for name, value in {"loss": loss, **losses}.items()}

    return train_step


def kept_share(alpha: float, epoch: int) -> float:
    """What a memory row keeps of itself in an epoch (from 1): nothing in the first one, at most everything."""
    return min(1.0, alpha * (epoch - 1))
