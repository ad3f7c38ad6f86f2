"""Central/patch features in two stages: supervised pre-training on a source, then unsupervised on the target.

Source: Yang et al., Patch-based Discriminative Feature Learning (PAUL), CVPR 2019: network, PEDAL, image-level loss
and recipe. ``CENTRAL_FEATURE.LOSS central`` is our reading of the title "Central Feature Learning for Unsupervised
Person Re-identification", whose text was not available.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from yacs.config import CfgNode

from crossreid.datasets import Batch
from crossreid.datasets.transforms import AreaCrop, ColorJitter, Compose, Normalize, Rotation
from crossreid.engine.data import Data, Domain
from crossreid.engine.distributed import parallel
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.extraction import extract
from crossreid.engine.hardware import compiled
from crossreid.engine.log import LOGGER
from crossreid.engine.method import Method, TrainStep
from crossreid.engine.methods.common import group_norms
from crossreid.engine.methods.windows import draw_windows
from crossreid.engine.optim import Precision, build_optimizer, build_scheduler, training_precision
from crossreid.losses.patch import central, ipfl, nearest_positive_triplet, pedal
from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.memory import PatchMemory
from crossreid.modeling.patch_net import PatchNet, check_height

VIEWS = 2  # of an image in stage 2
PATCH_LOSSES = {"pedal": pedal, "central": central}


def build_extractor(cfg: CfgNode) -> nn.Module:
    """The network without its classifier, with weights still to be loaded."""
    return build_network(cfg, 0, "none")


def build_network(cfg: CfgNode, classes: int, pretrained: str) -> PatchNet:
    options, model = cfg.CENTRAL_FEATURE, cfg.MODEL
    backbone = build_backbone(model.BACKBONE, last_stride=model.LAST_STRIDE, pretrained=pretrained)
    return PatchNet(
        backbone, options.PATCHES, options.PATCH_DIM, embed_dim=options.EMBED_DIM, num_classes=classes
    )


def build(cfg: CfgNode, data: Data) -> Method:
    """Network, optimizer and the training step of the stage."""
    options, ranks = cfg.CENTRAL_FEATURE, data.ranks
    pretrain = options.STAGE == "pretrain"
    domain = data.domains["source" if pretrain else "target"]
    check_batches(cfg, data, domain)
    pretrained = "none" if cfg.MODEL.WEIGHTS else cfg.MODEL.PRETRAINED
    bare = build_network(cfg, domain.num_identities if pretrain else 0, pretrained)
    check_map(cfg, bare)
    bare.generator.requires_grad_(pretrain)
    group_norms(cfg, bare, data)
    bare.to(ranks.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = parallel(bare, ranks, sync_bn=cfg.MODEL.SYNC_BN, find_unused=pretrain)
    precision = training_precision(cfg, ranks.device)
    generator = {id(p) for p in bare.generator.parameters()}
    backbone = {id(p) for p in bare.backbone.parameters()}
    new = [p for p in bare.parameters() if id(p) not in generator | backbone]
    optimizer = build_optimizer(cfg, [(bare.backbone.parameters(), cfg.SOLVER.LR), (new, cfg.SOLVER.NEW_LR)])
    if pretrain:
        optimizer.add_param_group({"params": list(bare.generator.parameters()), "lr": options.GENERATOR_LR})
        optimizer.param_groups.insert(0, optimizer.param_groups.pop())  # the log shows the last group's rate
    scheduler = build_scheduler(cfg, optimizer)
    state = {"model": network, "optimizer": optimizer, "scaler": precision.scaler, "scheduler": scheduler}

    def pictures() -> dict[str, Tensor]:
        return patch_windows(bare, domain, data.plain, options.PICTURES)

    if pretrain:
        step = pretrain_step(cfg, data, network, precision, optimizer)
        return Method(step, bare, state, scheduler, pictures=pictures)
    images = len(domain.images)
    patch_dim = bare.dim // bare.patches
    state["patches"] = patches = PatchMemory(images, bare.patches, patch_dim).to(ranks.device)
    state["images"] = whole = PatchMemory(images, 1, bare.dim).to(ranks.device)

    def prepare(epoch: int) -> None:
        if epoch == 1:
            LOGGER.info("filling the memories with the features of %d target images", images)
            vectors = extract(bare, domain.images, data.plain, ranks, precision, label="memory").vectors
            patches.features.copy_(vectors.unflatten(1, (bare.patches, patch_dim)).transpose(0, 1))
            whole.features[0].copy_(vectors)

    step = unsupervised_step(cfg, data, network, precision, optimizer, patches, whole)
    return Method(step, bare, state, scheduler, prepare, pictures=pictures)


def pretrain_step(
    cfg: CfgNode, data: Data, network: nn.Module, precision: Precision, optimizer: Optimizer
) -> TrainStep:
    """Stage 1: identities of every patch, and a triplet loss on all patches of an image together."""
    options = cfg.CENTRAL_FEATURE
    triplet = compiled(cfg, nearest_positive_triplet)

    def train_step(engine: Engine, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        pids, epoch = batches["source"].pids, engine.state.epoch
        images = data.augmented("source", batches["source"], engine.state.iteration)
        moving = options.GENERATOR_START <= epoch <= options.GENERATOR_END
        with precision.autocast():
            found = network(images, train_generator=moving)
        patches = len(found.logits)
        losses = {
            "id": patches * F.cross_entropy(found.logits.flatten(0, 1), pids.repeat(patches)),
            "triplet": triplet(found.embedding, pids, margin=options.TRIPLET_MARGIN, normalize=True),
        }
        loss = losses["id"] + options.TRIPLET_WEIGHT * losses["triplet"]
        precision.step(loss, optimizer)
        return {name: value.detach() for name, value in {"loss": loss, **losses}.items()}

    return train_step


def unsupervised_step(
    cfg: CfgNode,
    data: Data,
    network: nn.Module,
    precision: Precision,
    optimizer: Optimizer,
    patches: PatchMemory,
    whole: PatchMemory,
) -> TrainStep:
    """Stage 2: patches towards their neighbours in the memory, images towards the mean of their views.

    As in PAUL's code the memories take in the batch before the losses read them; patches of the first view alone
    enter the patch memory and its loss, the image-level loss sees both views.
    """
    options, view = cfg.CENTRAL_FEATURE, second_view(cfg)
    patch_loss, image_loss = compiled(cfg, PATCH_LOSSES[options.LOSS]), compiled(cfg, ipfl)
    rounds = data.most_repeats("target")

    def train_step(engine: Engine, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        batch, step = batches["target"], engine.state.iteration
        first = data.augmented("target", batch, step)
        second = data.second_view("target", batch, step, view)
        with precision.autocast():
            found = network(torch.cat([first, second])).patches  # [K, V B, D]
        views = found.unflatten(1, (VIEWS, len(batch))).permute(2, 1, 0, 3).flatten(2)  # [B, V, K D]
        own = found[:, : len(batch)]  # [K, B, D]
        patches.update(own, batch.index, keep=options.KEEP, rounds=rounds)
        whole.update(views.mean(dim=1)[None], batch.index, keep=options.KEEP, rounds=rounds)
        losses = {
            options.LOSS: patch_loss(
                own, patches.features, batch.index, scale=options.SCALE, k=options.NEIGHBORS
            ),
            "ipfl": image_loss(
                views.flatten(0, 1),
                whole.features[0, batch.index],
                views=VIEWS,
                margin=options.IMAGE_MARGIN,
                max_rank=options.MAX_RANK,
                nearest=options.NEAREST,
            ),
        }
        loss = options.PATCH_WEIGHT * losses[options.LOSS] + options.IMAGE_WEIGHT * losses["ipfl"]
        precision.step(loss, optimizer)
        return {name: value.detach() for name, value in {"loss": loss, **losses}.items()}

    return train_step


def second_view(cfg: CfgNode) -> Compose:
    """Transform of the second view: colour, rotation, and a crop in the image's own aspect."""
    options = cfg.CENTRAL_FEATURE
    aspect = cfg.INPUT.SIZE[0] / cfg.INPUT.SIZE[1]
    return Compose(
        [
            ColorJitter(*options.VIEW_JITTER),
            Rotation(options.VIEW_ROTATION),
            AreaCrop(tuple(options.VIEW_AREA), (aspect, aspect)),
            Normalize(cfg.INPUT.MEAN, cfg.INPUT.STD),
        ]
    )


def check_batches(cfg: CfgNode, data: Data, domain: Domain) -> None:
    """Raise InputError for batches or weights that the stage cannot work with."""
    options, share = cfg.CENTRAL_FEATURE, data.batch_size // data.ranks.world
    if options.STAGE == "pretrain":
        if share // cfg.DATALOADER.INSTANCES < 2:
            raise InputError(
                f"a batch of {share} images on a process holds one identity of DATALOADER.INSTANCES "
                f"{cfg.DATALOADER.INSTANCES} images; the triplet loss needs two: raise DATALOADER.BATCH_SIZE"
            )
        return
    if not cfg.RESUME and not Path(cfg.MODEL.WEIGHTS).expanduser().is_file():
        raise InputError(
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS}: no such file; CENTRAL_FEATURE.STAGE unsupervised starts from "
            "last.pt of a run with STAGE pretrain: train that first"
        )
    if options.IMAGE_WEIGHT and share <= options.NEAREST:
        raise InputError(
            f"{share} images a step on a process leave no hard negative beside CENTRAL_FEATURE.NEAREST "
            f"{options.NEAREST}: raise DATALOADER.BATCH_SIZE"
        )
    if len(domain.images) - 1 <= options.NEIGHBORS:
        raise InputError(
            f"CENTRAL_FEATURE.NEIGHBORS {options.NEIGHBORS} leaves nothing to be far from: "
            f"{domain.images.split.name} has {len(domain.images)} images; lower it"
        )


@torch.no_grad()
def check_map(cfg: CfgNode, network: PatchNet) -> None:
    """Raise ModelError unless the patches divide the height of the feature map."""
    height, width = cfg.INPUT.SIZE
    network.eval()
    rows = network.backbone(torch.zeros(1, 3, height, width)).shape[2]
    network.train()
    check_height(rows, height, network.patches)


@torch.no_grad()
def patch_windows(network: PatchNet, domain: Domain, plain: Compose, count: int) -> dict[str, Tensor]:
    """A picture of evenly spaced training images with their windows drawn on them."""
    if not count:
        return {}
    rows = np.unique(np.linspace(0, len(domain.images) - 1, count).round().astype(int))
    images = domain.images.gather(rows).images
    device = next(network.parameters()).device
    mode = network.training
    network.eval()
    windows = network.windows(network.backbone(plain(images.to(device)))).cpu()
    network.train(mode)
    return {"patch_windows": draw_windows(images, windows)}
