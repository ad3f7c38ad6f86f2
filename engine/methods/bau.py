"""Alignment and uniformity (BAU): trains on labelled sources for a target it never sees.

Every image is seen twice, weakly and strongly augmented; the published RandAugment is not among the strong ones. Terms
over pairs of images span the batches of all ranks.

Source: Cho et al., Generalizable Person Re-identification via Balancing Alignment and Uniformity, NeurIPS 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from crossreid.datasets import Batch
from crossreid.datasets.color import ColorJitter
from crossreid.datasets.color import uniform as drawn
from crossreid.datasets.transforms import Compose, Normalize, RandomErasing, Transform
from crossreid.engine.augmentation import geometry
from crossreid.engine.data import Data
from crossreid.engine.distributed import gathered
from crossreid.engine.evaluation.extraction import extract
from crossreid.engine.log import LOGGER
from crossreid.engine.method import Method, TrainStep
from crossreid.engine.methods.common import (
    TrainingParts,
    joined_identities,
    new_backbone,
    pooling,
    training_parts,
)
from crossreid.losses.alignment import align, domain_uniform, uniform, weights
from crossreid.losses.clusters import centroids
from crossreid.losses.triplet import batch_hard
from crossreid.modeling.aligned_net import AlignedNet
from crossreid.modeling.memory import FeatureMemory


class SometimesJitter(ColorJitter):
    """Brightness, contrast and saturation by factors from a range, hue by up to a shift; some images stay as they are.

    Args:
        p: probability.
        factors: smallest and largest.
        hue: circles, at most 0.5.
    """

    def __init__(self, p: float, factors: tuple[float, float], hue: float) -> None:
        super().__init__(1.0, 1.0, 1.0, hue)
        self.p, self.range = p, factors

    def draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        batch, hue = len(images), self.amounts[3]
        order = torch.rand(batch, 4, generator=generator, device=generator.device).argsort(1)
        factors = [drawn(batch, *self.range, generator) for _ in range(3)] + [
            drawn(batch, -hue, hue, generator)
        ]
        chosen = torch.rand(batch, generator=generator, device=generator.device) < self.p
        neutral = (1.0, 1.0, 1.0, 0.0)
        return order, torch.stack([torch.where(chosen, f, n) for f, n in zip(factors, neutral)], 1)


def strong_transform(cfg: CfgNode) -> Compose:
    """The strong view: flip, crop, colour jitter and erasing, each by its probability."""
    options, settings = cfg.INPUT, cfg.BAU
    steps: list[Transform] = [*geometry(cfg)]
    if settings.JITTER_PROB:
        steps.append(SometimesJitter(settings.JITTER_PROB, tuple(settings.JITTER), settings.HUE))
    steps.append(Normalize(options.MEAN, options.STD))
    if settings.ERASE:
        area, law = tuple(options.ERASE_AREA), options.ERASE_ASPECT
        steps.append(RandomErasing(settings.ERASE, area=area, law=law, value=options.ERASE_VALUE))
    return Compose(steps)


def build_extractor(cfg: CfgNode) -> nn.Module:
    """The network without its classifier, with weights still to be loaded."""
    return _network(cfg, 0, pretrained=False)


def _network(cfg: CfgNode, classes: int, *, pretrained: bool = True) -> AlignedNet:
    settings, backbone = cfg.BAU, new_backbone(cfg, pretrained=pretrained)
    return AlignedNet(backbone, classes, pool=pooling(cfg, "gem"), instance_stages=settings.INSTANCE_STAGES)


def build(cfg: CfgNode, data: Data) -> Method:
    """Network, prototypes, optimizer and training step."""
    count, firsts = joined_identities(cfg, data)
    net = _network(cfg, count)
    assert net.classifier is not None
    new = [*net.pool.parameters(), *net.neck.parameters(), *net.classifier.parameters()]
    groups = [(net.backbone.parameters(), cfg.SOLVER.LR), (new, cfg.SOLVER.NEW_LR)]
    parts = training_parts(cfg, data, net, groups, static=cfg.SOLVER.ACCUMULATE == 1)
    prototypes = FeatureMemory(count, net.dim).to(data.ranks.device)
    learner = Alignment(cfg, data, net, parts, prototypes, firsts, strong_transform(cfg))
    state = {**parts.state, "prototypes": prototypes}
    return Method(learner.step(), net, state, parts.scheduler, learner.prepare)


@dataclass(frozen=True)
class Alignment:
    """The prototypes and the step.

    Args:
        firsts: each source's first identity among all; the identities of the sources follow each other.
        strong: transform of the second view.
    """

    cfg: CfgNode
    data: Data
    net: AlignedNet
    parts: TrainingParts
    prototypes: FeatureMemory
    firsts: Mapping[str, int]
    strong: Compose

    def prepare(self, epoch: int) -> None:
        """Prototypes are the means of the identities before the first step."""
        if epoch > 1:
            return
        rows = []
        for name, domain in self.data.domains.items():
            LOGGER.info("filling the prototypes of %s", domain.images.split.name)
            found = extract(
                self.net, domain.images, self.data.plain, self.data.ranks, self.parts.precision,
                batch_size=self.cfg.TEST.BATCH_SIZE, label=name,
            )  # fmt: skip
            rows.append(centroids(F.normalize(found.vectors), found.pids))
        self.prototypes.features.copy_(torch.cat(rows))

    def step(self) -> TrainStep:
        """Classification and triplets of the weak views, alignment and uniformity of both."""
        settings, data, parts, ranks = self.cfg.BAU, self.data, self.parts, self.data.ranks
        sizes = [domain.num_identities for domain in data.domains.values()]
        of_prototypes = torch.tensor([i for i, size in enumerate(sizes) for _ in range(size)]).to(
            ranks.device
        )

        def train_step(engine: Engine, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
            step = engine.state.iteration
            weak = [data.augmented(name, batch, step) for name, batch in batches.items()]
            strong = [data.second_view(name, batch, step, self.strong) for name, batch in batches.items()]
            pids = torch.cat([batch.pids + self.firsts[name] for name, batch in batches.items()])
            with parts.precision.autocast():
                found = parts.network(torch.cat([*weak, *strong]))
            half = len(pids)
            features = torch.cat([found.pooled[:half], found.units[:half], found.units[half:]], dim=1)
            pooled, w, s = gathered(features.float(), ranks).chunk(3, dim=1)
            everyone = gathered(pids, ranks)
            losses = self.pair_losses(pooled, w, s, everyone, of_prototypes)
            smoothing = settings.LABEL_SMOOTHING
            losses["id"] = F.cross_entropy(found.logits.float(), pids, label_smoothing=smoothing)
            weight = {
                "id": 1.0,
                "triplet": settings.TRIPLET_WEIGHT,
                "align": settings.ALIGN_WEIGHT,
                "uniform": settings.UNIFORM_WEIGHT,
                "domain": settings.DOMAIN_WEIGHT,
            }
            loss = torch.stack([weight[name] * value for name, value in losses.items()]).sum()
            parts.precision.step(loss, parts.optimizer)
            units, rounds = found.units[:half].float(), self.cfg.DATALOADER.INSTANCES
            self.prototypes.update(units, pids, keep=settings.KEEP, rounds=rounds)
            return {name: value.detach() for name, value in {"loss": loss, **losses}.items()}

        return train_step

    def pair_losses(
        self, pooled: Tensor, weak: Tensor, strong: Tensor, pids: Tensor, of_prototypes: Tensor
    ) -> dict[str, Tensor]:
        """The terms over pairs, unweighted, of all ranks' images.

        Args:
            pooled: [B, D] of the weak views before the neck.
            weak, strong: [B, D] unit rows.
            pids: [B] identities among all sources.
            of_prototypes: [C] source of each identity.
        """
        settings, domains = self.cfg.BAU, of_prototypes[pids]
        bank = self.prototypes.features
        views = (weak, strong)
        spread = [domain_uniform(x, domains, bank, of_prototypes) for x in views]
        return {
            "triplet": batch_hard(pooled, pids, margin=settings.TRIPLET_MARGIN),
            "align": align(weak, strong, pids, weights(weak, strong, k=settings.NEIGHBORS)),
            "uniform": 0.5 * (uniform(weak) + uniform(strong)),
            "domain": 0.5 * (spread[0] + spread[1]),
        }
