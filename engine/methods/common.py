"""What every `build` needs: backbone, optimizer, precision, schedule, and the step on labelled images alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from ignite.engine import Engine
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from yacs.config import CfgNode

from crossreid.datasets import Batch
from crossreid.engine.data import Data
from crossreid.engine.distributed import parallel
from crossreid.engine.errors import InputError
from crossreid.engine.log import LOGGER
from crossreid.engine.method import TrainStep
from crossreid.engine.optim import Precision, build_optimizer, build_scheduler, decayed, training_precision
from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.batch_groups import group_batch_norms
from crossreid.modeling.side_information import camera_rows, camera_table

Groups = Iterable[tuple[Iterable[nn.Parameter], float]]  # parameters and their learning rate


@dataclass(frozen=True)
class TrainingParts:
    """What a training step works with.

    Args:
        network: on its device, averaging gradients over ranks.
        state: of a checkpoint: the four others by name; a method adds its memories.
    """

    network: nn.Module
    optimizer: Optimizer
    precision: Precision
    scheduler: LRScheduler
    state: dict[str, Any]


def training_parts(
    cfg: CfgNode,
    data: Data,
    network: nn.Module,
    groups: Groups,
    *,
    wrap: bool = True,
    factors: Mapping[int, Callable[[int], float]] | None = None,
    **options: bool,
) -> TrainingParts:
    """Bring a network to the device and make its optimizer, precision and schedule.

    Args:
        network: the bare network; its parameters keep their names.
        groups: parameters and learning rate of each group; those that do not require gradients are left out.
        wrap: average gradients over ranks; False for a method that does so itself.
        factors: of learning rates, of ``engine.optim.build_scheduler``.
        options: of ``engine.distributed.parallel``.
    """
    ranks = data.ranks
    group_norms(cfg, network, data)
    network.to(ranks.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    wrapped = parallel(network, ranks, sync_bn=cfg.MODEL.SYNC_BN, **options) if wrap else network
    precision = training_precision(cfg, ranks.device)
    if cfg.SOLVER.LAYER_DECAY < 1:
        if factors:
            raise InputError(f"METHOD {cfg.METHOD} has its own schedule of rates: set SOLVER.LAYER_DECAY 1.0")
        groups = decayed(groups, network, cfg.SOLVER.LAYER_DECAY)
    optimizer = build_optimizer(cfg, groups)
    scheduler = build_scheduler(cfg, optimizer, factors)
    state = {"model": wrapped, "optimizer": optimizer, "scaler": precision.scaler, "scheduler": scheduler}
    return TrainingParts(wrapped, optimizer, precision, scheduler, state)


def group_norms(cfg: CfgNode, network: nn.Module, data: Data) -> None:
    """Let batch norms work on groups of ``MODEL.BN_GROUP`` images, if it is set.

    Raises:
        InputError: groups that do not fit a process's images of a domain, which would mix domains.
    """
    group, own = cfg.MODEL.BN_GROUP, data.batch_size // data.ranks.world
    if not group:
        return
    if own % group:
        raise InputError(
            f"MODEL.BN_GROUP {group} does not divide the {own} images of a domain a process sees in a step: change it, "
            "DATALOADER.BATCH_SIZE or the number of processes"
        )
    group_batch_norms(network, group)


def new_backbone(cfg: CfgNode, *, pretrained: bool = True, cameras: torch.Tensor | None = None) -> Any:
    """The backbone of ``MODEL``.

    Args:
        pretrained: start from ``MODEL.PRETRAINED``, unless ``MODEL.WEIGHTS`` brings the whole network.
        cameras: [C, 2] that it embeds with ``MODEL.SIE``; None of a method that passes no cameras.

    Raises:
        InputError: ``MODEL.SIE`` with such a method.
    """
    model = cfg.MODEL
    weights = model.PRETRAINED if pretrained and not model.WEIGHTS else "none"
    if model.SIE and cameras is None:
        raise InputError(
            f"MODEL.SIE true: METHOD {cfg.METHOD} passes no cameras to its backbone (supervised and cluster_contrast "
            "do): set it to false"
        )
    embedded = {"cameras": cameras, "sie_weight": model.SIE_WEIGHT} if model.SIE else {}
    backbone = build_backbone(model.BACKBONE, pretrained=weights, **embedded, **backbone_options(cfg))
    if weights != "none":
        check_normalisation(cfg, backbone)
    return backbone


def backbone_options(cfg: CfgNode) -> dict[str, Any]:
    """What ``build_backbone`` takes of the config beside the name and the weights."""
    model = cfg.MODEL
    return {
        "last_stride": model.LAST_STRIDE,
        "size": tuple(cfg.INPUT.SIZE),
        "patch_stride": model.PATCH_STRIDE,
        "drop_path": model.DROP_PATH,
    }


def check_normalisation(cfg: CfgNode, backbone: nn.Module) -> None:
    """Warn where images are normalised with other numbers than the backbone's weights were trained with."""
    known: Any = getattr(backbone, "normalisation", None)
    given = cfg.INPUT.MEAN, cfg.INPUT.STD
    if known and any(abs(a - b) > 0.01 for x, y in zip(known, given) for a, b in zip(x, y)):
        mean, std = ([round(value, 4) for value in values] for values in known)
        LOGGER.warning(
            "MODEL.PRETRAINED %s was trained with other numbers than INPUT.MEAN %s and STD %s: set INPUT.MEAN %s "
            "INPUT.STD %s", cfg.MODEL.PRETRAINED, *given, mean, std,
        )  # fmt: skip


def training_cameras(data: Data) -> torch.Tensor:
    """Every camera of the training domains [C, 2], for the camera embedding of a backbone.

    Raises:
        ModelError: images of an unknown camera, or one camera only.
    """
    splits = [domain.images.split for domain in data.domains.values()]
    return camera_table({split.dataset: split.cams for split in splits})


CameraInputs = Callable[[Iterable[str], Mapping[str, Batch]], dict[str, torch.Tensor]]


def camera_inputs(network: nn.Module, data: Data) -> CameraInputs:
    """What a network takes beside the images of some domains' batches: ``cameras``, where its backbone embeds them."""
    found = {
        name: camera_rows(network, domain.images.split.dataset, domain.images.split.cams)
        for name, domain in data.domains.items()
    }
    rows = {name: value.to(data.ranks.device) for name, value in found.items() if value is not None}

    def beside(domains: Iterable[str], batches: Mapping[str, Batch]) -> dict[str, torch.Tensor]:
        return {"cameras": torch.cat([rows[n][batches[n].index] for n in domains])} if rows else {}

    return beside


def joined_identities(cfg: CfgNode, data: Data) -> tuple[int, dict[str, int]]:
    """How many identities the sources have together, and the first one of each source among them.

    Raises:
        InputError: a source of one identity.
    """
    counts = {name: domain.num_identities for name, domain in data.domains.items()}
    for name, count in counts.items():
        if count < 2:
            split = data.domains[name].images.split.name
            raise InputError(
                f"{split} has {count} identity: METHOD {cfg.METHOD} needs two or more in every source"
            )
    return sum(counts.values()), dict(zip(counts, itertools.accumulate(counts.values(), initial=0)))


def pooling(cfg: CfgNode, usual: str = "avg") -> str:
    """The pooling of ``MODEL.POOLING``; auto: the method's ``usual`` one."""
    return usual if cfg.MODEL.POOLING == "auto" else str(cfg.MODEL.POOLING)


def identity_step(data: Data, parts: TrainingParts) -> TrainStep:
    """The step of the baseline: the cross-entropy of the source's identities alone.

    The network must give an object with ``logits`` [B, C] for images [B, 3, H, W].
    """

    def train_step(engine: Engine, batches: Mapping[str, Batch]) -> dict[str, torch.Tensor]:
        images = data.augmented("source", batches["source"], engine.state.iteration)
        with parts.precision.autocast():
            logits = parts.network(images).logits
        loss = F.cross_entropy(logits.float(), batches["source"].pids)
        parts.precision.step(loss, parts.optimizer)
        return {"loss": loss.detach(), "id": loss.detach()}

    return train_step


def direct_transfer(source_epochs: int) -> dict[int, str]:
    """The milestone of a method that first trains on the source alone."""
    return {source_epochs: "direct transfer"} if source_epochs else {}
