"""Identity and pose disentangling: a person drawn in another picture's pose must still be that person.

Source: Li et al., Adaptation and Re-Identification Network (ARN), CVPR-W 2018 (``VARIANT: arn``, see ``arn_step``), and
the identity/pose encoder-decoder built on it. Without a target it trains on the source alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from torch import nn
from torch.nn import functional as F
from yacs.config import CfgNode

from crossreid.datasets import Batch
from crossreid.engine.data import Data
from crossreid.engine.errors import InputError
from crossreid.engine.hardware import compiled
from crossreid.engine.method import Method, TrainStep
from crossreid.engine.methods.arn_step import arn_step, redrawn
from crossreid.engine.methods.common import (
    TrainingParts,
    backbone_options,
    check_normalisation,
    direct_transfer,
    training_parts,
)
from crossreid.engine.methods.masks import add_masks
from crossreid.engine.methods.pictures import sheet
from crossreid.engine.optim import Precision
from crossreid.losses.disentangle import contrastive, mmd, orthogonality
from crossreid.modeling.arn import AdaptationNet
from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.disentangler import ANY, Disentangler, DisentanglerOutput, build_decoder


def build_extractor(cfg: CfgNode) -> nn.Module:
    """The identity encoder with its pooling, with weights still to be loaded."""
    return Disentangler(_encoder(cfg, "none"), {}, None, pool=cfg.DISENTANGLE.POOL)


def build_network(cfg: CfgNode, num_classes: int) -> Disentangler | AdaptationNet:
    """The whole network of the variant."""
    settings = cfg.DISENTANGLE
    pretrained = "none" if cfg.MODEL.WEIGHTS else cfg.MODEL.PRETRAINED
    arn = settings.VARIANT == "arn"
    identity = _encoder(cfg, pretrained)
    check_sizes(cfg, identity.stride)
    channels = identity.out_channels if arn else 2 * identity.out_channels
    decoder = build_decoder(channels, identity.stride, settings.DECODER_WIDTHS, transposed=arn)
    if arn:
        return AdaptationNet(identity, decoder, num_classes, pool=settings.POOL)
    return Disentangler(identity, {ANY: _encoder(cfg, pretrained)}, decoder, num_classes, pool=settings.POOL)


def check_sizes(cfg: CfgNode, stride: int) -> None:
    """Raise InputError unless the decoder gives images of ``INPUT.SIZE``."""
    size, backbone, widths = cfg.INPUT.SIZE, cfg.MODEL.BACKBONE, cfg.DISENTANGLE.DECODER_WIDTHS
    if any(side % stride for side in size):
        near = [max(1, round(side / stride)) * stride for side in size]
        raise InputError(
            f"INPUT.SIZE {size} must be divisible by {stride}, the stride of MODEL.BACKBONE {backbone}, for METHOD "
            f"disentangle: {near} would do"
        )
    if len(widths) < stride.bit_length() - 2:
        raise InputError(
            f"DISENTANGLE.DECODER_WIDTHS {widths} holds too few values: the stride of MODEL.BACKBONE {backbone} is "
            f"{stride}, so that {stride.bit_length() - 2} are needed"
        )


def _encoder(cfg: CfgNode, pretrained: str) -> Any:
    backbone = build_backbone(cfg.MODEL.BACKBONE, pretrained=pretrained, **backbone_options(cfg))
    if pretrained != "none":
        check_normalisation(cfg, backbone)
    return backbone


def build(cfg: CfgNode, data: Data) -> Method:
    """Network, optimizer, training step and pictures."""
    settings = cfg.DISENTANGLE
    add_masks(cfg, data)
    bare = build_network(cfg, data.domains["source"].num_identities)
    assert bare.decoder is not None
    assert bare.classifier is not None
    new = [*bare.decoder.parameters(), *bare.classifier.parameters()]
    apart = {id(p) for p in new}
    encoders = [p for p in bare.parameters() if id(p) not in apart]
    parts = training_parts(cfg, data, bare, [(encoders, cfg.SOLVER.LR), (new, cfg.SOLVER.NEW_LR)])
    step = (arn_step if settings.VARIANT == "arn" else pose_step)(cfg, data, parts, term_weights(settings))

    def pictures() -> dict[str, torch.Tensor]:
        return draw(bare, data, parts.precision, settings.GRID) if settings.GRID else {}

    milestones = direct_transfer(settings.SOURCE_EPOCHS) if "target" in data.domains else {}
    return Method(step, bare, parts.state, parts.scheduler, milestones=milestones, pictures=pictures)


def pose_step(cfg: CfgNode, data: Data, parts: TrainingParts, weights: Mapping[str, float]) -> TrainStep:
    """The step of ``VARIANT pose``: each identity is drawn in the pose of another image of it."""
    settings, ranks = cfg.DISENTANGLE, data.ranks
    sources = data.batch_size // ranks.world  # S
    partners = next_of_identity(sources, cfg.DATALOADER.INSTANCES).to(ranks.device)
    itself = torch.arange(sources, 2 * sources, device=ranks.device)
    mean, std = (torch.tensor(v, device=ranks.device).view(3, 1, 1) for v in (cfg.INPUT.MEAN, cfg.INPUT.STD))
    domain_gap = compiled(cfg, mmd)

    def train_step(engine: Engine, batches: Mapping[str, Batch]) -> dict[str, torch.Tensor]:
        step = engine.state.iteration
        adapt = "target" in data.domains and engine.state.epoch > settings.SOURCE_EPOCHS
        domains = ["source", "target"] if adapt else ["source"]
        pairs = [data.augmented_with_masks(name, batches, step) for name in domains]
        images = torch.cat([shown for shown, _ in pairs])  # [B, 3, H, W]
        masks = [moved for _, moved in pairs if moved is not None]
        donors = torch.cat([partners, itself]) if adapt else partners  # [B] whose pose, whose picture
        plain = images * std + mean  # in 0..1
        views = (recoloured(plain, settings.NEGATE) - mean) / std if settings.JITTER else images
        with parts.precision.autocast():
            found = parts.network(images, views, donors, sources=sources)
        wanted = plain[donors]
        mask = torch.cat(masks)[donors] if masks else None
        losses = source_terms(settings, found, batches["source"].pids, partners)
        losses |= {
            "rec": redrawn(found.images, wanted, mask),
            "dif": orthogonality(found.identity, found.pose, kind=settings.ORTHOGONALITY),
        }
        if adapt:
            features = F.normalize(found.identity) if settings.MMD_UNIT else found.identity
            losses["mmd"] = domain_gap(features[sources:], features[:sources], sigmas=settings.MMD_SIGMAS)
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        parts.precision.step(loss, parts.optimizer)
        return {name: value.detach() for name, value in {"loss": loss, **losses}.items()}

    return train_step


def term_weights(settings: CfgNode) -> dict[str, float]:
    """The weight of every loss by the name under which it is logged."""
    return {
        "cls": settings.CLS_WEIGHT,
        "rec": settings.REC_WEIGHT,
        "dif": settings.DIF_WEIGHT,
        "app": settings.APP_WEIGHT,
        "ctr": settings.CTR_WEIGHT,
        "mmd": settings.MMD_WEIGHT,
    }


def source_terms(
    settings: CfgNode, parts: DisentanglerOutput, pids: torch.Tensor, partners: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The losses of labelled identities; negatives are all other identities of the batch."""
    own = parts.identity[: len(pids)]  # [S, D]
    return {
        "cls": F.cross_entropy(parts.logits.float(), pids),
        "app": F.mse_loss(own, own[partners]),
        "ctr": contrastive(own, pids, margin=settings.CTR_MARGIN),
    }


def next_of_identity(count: int, instances: int) -> torch.Tensor:
    """For each image of a P x K batch the next one of its identity [count], the last one's being the first."""
    return torch.arange(count).view(-1, instances).roll(-1, dims=1).flatten()


def recoloured(images: torch.Tensor, negate: float) -> torch.Tensor:
    """Images [B, 3, H, W] in 0..1 with channels in random order, as negatives (1 - x) with probability ``negate``.

    Random numbers come from the device's generator, which the trainer seeds in every step.
    """
    batch, channels = images.shape[:2]
    order = torch.rand(batch, channels, device=images.device).argsort(dim=1)
    negative = torch.rand(batch, 1, 1, 1, device=images.device) < negate
    permuted = images.gather(1, order[:, :, None, None].expand_as(images))
    return torch.where(negative, 1 - permuted, permuted)


@torch.no_grad()
def draw(
    network: Disentangler | AdaptationNet, data: Data, precision: Precision, count: int
) -> dict[str, torch.Tensor]:
    """Reconstructions, and every identity in every pose, of training images evenly spread over each domain.

    Returns:
        ``reconstruction``: above each other the images and what was decoded from them, source first.
        ``swap_source``, ``swap_target``: poses across the top, identities down the left side.
    """
    mode = network.training
    network.eval()
    pictures, pairs = {}, []
    for name, domain in data.domains.items():
        rows = np.unique(np.linspace(0, len(domain.images) - 1, count).round().astype(np.int64))
        pixels = domain.images.gather(rows).images.to(data.ranks.device)
        with precision.autocast():
            decoded = network.swapped(data.plain(pixels, None), target=name == "target")  # [N, N, 3, H, W]
        shown, decoded = pixels.float() / 255, decoded.float()
        pairs += [shown, decoded.diagonal().movedim(-1, 0)]
        corner = torch.ones_like(shown[:1])
        top = torch.cat([corner, shown])[None]  # [1, N + 1, 3, H, W]
        pictures[f"swap_{name}"] = sheet(torch.cat([top, torch.cat([shown[:, None], decoded], dim=1)]))
    network.train(mode)
    least = min(len(row) for row in pairs)
    return {"reconstruction": sheet(torch.stack([row[:least] for row in pairs])), **pictures}
