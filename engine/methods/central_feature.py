"""Central/patch features in two stages: supervised pre-training on a source, then unsupervised on the target.

Source: Yang et al., Patch-based Discriminative Feature Learning (PAUL), CVPR 2019, step for step as its program; and
what the program of Central Feature Learning for Unsupervised Person Re-identification adds: neighbours that grow, a
controlled memory, PEDAL on embeddings (``NEIGHBOR_GROWTH``, ``MEMORY``, ``EMBEDDING_WEIGHT``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from crossreid.datasets import Batch
from crossreid.datasets.samplers import Rows, generator
from crossreid.datasets.transforms import ColorJitter, Compose, Flip, Normalize, Rotation, WidthCrop
from crossreid.engine.data import Data, Domain
from crossreid.engine.distributed import gathered
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.extraction import gather_rows
from crossreid.engine.hardware import compiled
from crossreid.engine.log import LOGGER
from crossreid.engine.method import Method, TrainStep
from crossreid.engine.methods.common import (
    TrainingParts,
    backbone_options,
    check_normalisation,
    training_parts,
)
from crossreid.engine.methods.windows import patch_windows
from crossreid.engine.optim import Precision
from crossreid.losses.patch import ipfl, nearest_positive_triplet, pedal
from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.controlled_memory import ControlledPatchMemory
from crossreid.modeling.memory import PatchMemory
from crossreid.modeling.patch_net import PatchNet

VIEWS = 2  # of an image in stage 2


def build_extractor(cfg: CfgNode) -> nn.Module:
    """The network without its classifier, with weights still to be loaded."""
    return build_network(cfg, 0, "none")


def build_network(cfg: CfgNode, classes: int, pretrained: str) -> PatchNet:
    options, model = cfg.CENTRAL_FEATURE, cfg.MODEL
    backbone = build_backbone(model.BACKBONE, pretrained=pretrained, **backbone_options(cfg))
    if pretrained != "none":
        check_normalisation(cfg, backbone)
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
    bare.generator.requires_grad_(pretrain)
    apart = {id(p) for part in (bare.generator, bare.backbone) for p in part.parameters()}
    new = [p for p in bare.parameters() if id(p) not in apart]
    groups = [(bare.backbone.parameters(), cfg.SOLVER.LR), (new, cfg.SOLVER.NEW_LR)]

    def generator_factor(epoch: int) -> float:
        return float(options.GENERATOR_START <= epoch + 1 <= options.GENERATOR_END)

    if pretrain:  # first, so that the log shows the last group's rate
        groups.insert(0, (bare.generator.parameters(), options.GENERATOR_LR))
    parts = training_parts(cfg, data, bare, groups, factors={0: generator_factor} if pretrain else None)

    def pictures() -> dict[str, Tensor]:
        return patch_windows(bare, domain, data.plain, options.PICTURES)

    if pretrain:
        step = pretrain_step(cfg, data, parts)
        return Method(step, bare, parts.state, parts.scheduler, pictures=pictures)
    count = len(domain.images)
    patches = patch_memory(cfg, count).to(ranks.device)
    images = PatchMemory(count, 1, options.PATCHES * options.EMBED_DIM, begin=True).to(ranks.device)
    state = {**parts.state, "patches": patches, "image_memory": images}

    def prepare(epoch: int) -> None:
        if epoch == 1:
            LOGGER.info("filling the memory with the features of %d target images", count)
            found = training_features(bare, data, second_view(cfg), parts.precision)  # [N, K D]
            patches.features.copy_(found.unflatten(1, (options.PATCHES, -1)).transpose(0, 1))

    step = unsupervised_step(cfg, data, parts, patches, images)
    return Method(step, bare, state, parts.scheduler, prepare, pictures=pictures)


def patch_memory(cfg: CfgNode, rows: int) -> PatchMemory | ControlledPatchMemory:
    """The memory of patches that ``CENTRAL_FEATURE.MEMORY`` names."""
    options = cfg.CENTRAL_FEATURE
    if options.MEMORY != "controlled":
        return PatchMemory(rows, options.PATCHES, options.PATCH_DIM)
    gain, integral, derivative = options.MEMORY_GAINS
    return ControlledPatchMemory(
        rows, options.PATCHES, options.PATCH_DIM, gain=gain, integral=integral, derivative=derivative
    )


def pretrain_step(cfg: CfgNode, data: Data, parts: TrainingParts) -> TrainStep:
    """Stage 1: identities of every patch, and a triplet loss on all patches of an image together."""
    options = cfg.CENTRAL_FEATURE
    triplet = compiled(cfg, nearest_positive_triplet)

    def train_step(engine: Engine, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        pids = batches["source"].pids
        images = data.augmented("source", batches["source"], engine.state.iteration)
        with parts.precision.autocast():
            found = parts.network(images)
        patches = len(found.logits)
        losses = {
            "id": patches * F.cross_entropy(found.logits.flatten(0, 1), pids.repeat(patches)),
            "triplet": triplet(  # of the whole batch, as on one device
                gathered(found.embedding, data.ranks),
                gathered(pids, data.ranks),
                margin=options.TRIPLET_MARGIN,
                normalize=True,
            ),
        }
        loss = losses["id"] + options.TRIPLET_WEIGHT * losses["triplet"]
        parts.precision.step(loss, parts.optimizer)
        return {name: value.detach() for name, value in {"loss": loss, **losses}.items()}

    return train_step


def unsupervised_step(
    cfg: CfgNode,
    data: Data,
    parts: TrainingParts,
    patches: PatchMemory | ControlledPatchMemory,
    images: PatchMemory,
) -> TrainStep:
    """Stage 2: patches towards their neighbours in the memory, images towards the mean of their views.

    The memories take in the batch before the losses read them; patches of the first view alone enter the patch memory
    and its loss, the image-level loss sees the embeddings of both views.
    """
    options, view, ranks = cfg.CENTRAL_FEATURE, second_view(cfg), data.ranks
    patch_loss, image_loss = compiled(cfg, pedal), compiled(cfg, ipfl)
    rounds = data.most_repeats("target")
    keep = 0.0 if options.MEMORY == "latest" else options.KEEP

    def train_step(engine: Engine, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        batch, step = batches["target"], engine.state.iteration
        first = data.augmented("target", batch, step)
        second = data.second_view("target", batch, step, view)
        with parts.precision.autocast():
            found = parts.network(torch.cat([first, second]))
        own = found.patches[:, : len(batch)]  # [K, B, D]
        embedding = found.embedding.unflatten(0, (VIEWS, len(batch))).transpose(0, 1)  # [B, V, K E]
        if isinstance(patches, ControlledPatchMemory):
            patches.update(own, batch.index, rounds=rounds)
        else:
            patches.update(own, batch.index, keep=keep, rounds=rounds)
        images.update(embedding.mean(dim=1)[None], batch.index, keep=options.KEEP, rounds=rounds)
        neighbors = (
            options.NEIGHBORS + options.NEIGHBOR_GROWTH * (engine.state.epoch - 1) // cfg.SOLVER.EPOCHS
        )
        losses = {
            "pedal": patch_loss(own, patches.features, batch.index, scale=options.SCALE, k=neighbors),
            "ipfl": image_loss(
                embedding.flatten(0, 1),
                images.features[0, gathered(batch.index, ranks)],
                views=VIEWS,
                margin=options.IMAGE_MARGIN,
                max_rank=options.MAX_RANK,
                nearest=options.NEAREST,
                first=ranks.rank * len(batch),
            ),
        }
        loss = options.PATCH_WEIGHT * losses["pedal"] + options.IMAGE_WEIGHT * losses["ipfl"]
        if options.EMBEDDING_WEIGHT:
            losses["embedding"] = pedal(
                embedding[:, 0].unflatten(1, (options.PATCHES, -1)).transpose(0, 1),  # [K, B, E]
                images.features[0].unflatten(1, (options.PATCHES, -1)).transpose(0, 1),  # [K, N, E]
                batch.index,
                scale=options.SCALE,
                k=len(batch) * ranks.world,
                known=images.visited,
            )
            loss = loss + options.EMBEDDING_WEIGHT * losses["embedding"]
        parts.precision.step(loss, parts.optimizer)
        return {name: value.detach() for name, value in {"loss": loss, **losses}.items()}

    return train_step


def second_view(cfg: CfgNode) -> Compose:
    """Transform of the second view: colour, rotation, a crop whose aspect is free, and a flip of its own."""
    options = cfg.CENTRAL_FEATURE
    return Compose(
        [
            ColorJitter(*options.VIEW_JITTER),
            Rotation(options.VIEW_ROTATION),
            WidthCrop(tuple(options.VIEW_AREA)),
            Flip(cfg.INPUT.FLIP),
            Normalize(cfg.INPUT.MEAN, cfg.INPUT.STD),
        ]
    )


def filling_batches(data: Data) -> list[list[Rows]]:
    """Batches of one pass over the target: rows of every rank's share of each; all images once."""
    count = len(data.domains["target"].images)
    order = generator(data.seed, 0, 3).permutation(count)
    batches = np.array_split(order, np.arange(data.batch_size, count, data.batch_size))
    return [np.array_split(batch, data.ranks.world) for batch in batches]


@torch.no_grad()
def training_features(network: PatchNet, data: Data, view: Compose, precision: Precision) -> Tensor:
    """Features [N, K D] of the first view of every target image, by one pass in training mode over both views.

    The running statistics move to the target. The features stay on the CPU, the same on every rank.
    """
    domain, ranks = data.domains["target"], data.ranks
    mode, parts, batches = network.training, [], filling_batches(data)
    network.train()
    for step, shares in enumerate(batches, 1):
        if not len(shares[ranks.rank]):
            continue
        batch = domain.images.gather(shares[ranks.rank]).to(ranks.device)
        views = (
            data.second_view("target", batch, step, domain.transform, view=2),
            data.second_view("target", batch, step, view, view=3),
        )
        with precision.autocast():
            found = network(torch.cat(views))
        parts.append(found.patches[:, : len(batch)].transpose(0, 1).flatten(1).cpu())
    network.train(mode)
    vectors = gather_rows(torch.cat(parts), ranks)  # of one rank after the other
    rows = np.concatenate([shares[rank] for rank in range(ranks.world) for shares in batches])
    return torch.empty_like(vectors).index_copy_(0, torch.from_numpy(rows), vectors)


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
            "last.pt of a run with STAGE pretrain: train that first, or name its YAML in FIRST_STAGE"
        )
    if options.IMAGE_WEIGHT and share <= options.NEAREST:
        raise InputError(
            f"{share} images a step on a process leave no hard negative beside CENTRAL_FEATURE.NEAREST "
            f"{options.NEAREST}: raise DATALOADER.BATCH_SIZE"
        )
    neighbors = options.NEIGHBORS + options.NEIGHBOR_GROWTH
    if len(domain.images) - 1 <= neighbors:
        raise InputError(
            f"CENTRAL_FEATURE.NEIGHBORS {options.NEIGHBORS} (NEIGHBOR_GROWTH {options.NEIGHBOR_GROWTH}) leaves "
            f"nothing to be far from: {domain.images.split.name} has {len(domain.images)} images; lower it"
        )
