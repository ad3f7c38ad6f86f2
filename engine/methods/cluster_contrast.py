"""Cluster Contrast: pseudo-labels by clustering, and a memory with one row a cluster.

Without a source it is unsupervised; ``MODEL.WEIGHTS`` of a source model make it the second of two stages; with a source
the softmax spans the source's identities and the target's clusters.

Source: Dai et al., Cluster Contrast for Unsupervised Person Re-Identification, ACCV 2022; the joint form is the scheme
of SpCL (Ge et al., NeurIPS 2020).
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
from crossreid.engine.data import Data
from crossreid.engine.evaluation.extraction import extract
from crossreid.engine.method import Method, TrainStep
from crossreid.engine.methods.common import (
    TrainingParts,
    camera_inputs,
    direct_transfer,
    new_backbone,
    pooling,
    training_cameras,
    training_parts,
)
from crossreid.engine.methods.relabel import check_target, find_labels, repeats
from crossreid.losses.clusters import centroids, contrast
from crossreid.modeling.cluster_memory import ClusterMemory
from crossreid.modeling.cluster_net import ClusterNet
from crossreid.modeling.pseudo_labels import PseudoLabels
from crossreid.modeling.side_information import no_cameras


def build_extractor(cfg: CfgNode) -> nn.Module:
    """The network, with weights still to be loaded."""
    return _network(cfg, no_cameras(), pretrained=False)


def _network(cfg: CfgNode, cameras: Tensor | None, *, pretrained: bool = True) -> ClusterNet:
    norm = cfg.CLUSTER_CONTRAST.NORM if cfg.DATASETS.SOURCES else "shared"
    backbone = new_backbone(cfg, pretrained=pretrained, cameras=cameras)
    return ClusterNet(backbone, pool=pooling(cfg, "gem"), norm=norm)


def build(cfg: CfgNode, data: Data) -> Method:
    """Network, memory, labels, optimizer and training step."""
    settings, ranks = cfg.CLUSTER_CONTRAST, data.ranks
    check_target(settings.CLUSTER, data, "CLUSTER_CONTRAST")
    net = _network(cfg, training_cameras(data) if cfg.MODEL.SIE else None)
    new = [*net.pool.parameters(), *net.neck.parameters()]
    groups = [(net.backbone.parameters(), cfg.SOLVER.LR), (new, cfg.SOLVER.NEW_LR)]
    parts = training_parts(cfg, data, net, groups, static=cfg.SOLVER.ACCUMULATE == 1)
    labels = PseudoLabels(len(data.domains["target"].images)).to(ranks.device)
    learner = Clusters(cfg, data, net, parts, labels, ClusterMemory(net.dim, ranks.device))
    data.relabel("target", labels.array, cfg.DATALOADER.INSTANCES)
    state = {**parts.state, "labels": labels, "memory": learner.memory}
    milestones = direct_transfer(settings.SOURCE_EPOCHS)
    return Method(learner.step(), net, state, parts.scheduler, learner.prepare, milestones)


@dataclass(frozen=True)
class Clusters:
    """Labels and memory, renewed every epoch, and the step that learns from them.

    The memory's first rows are the source's identities, if there is a source, the others the target's clusters.
    """

    cfg: CfgNode
    data: Data
    net: ClusterNet
    parts: TrainingParts
    labels: PseudoLabels
    memory: ClusterMemory

    @property
    def identities(self) -> int:
        """P, over all ranks."""
        return self.data.batch_size // self.cfg.DATALOADER.INSTANCES

    @property
    def source_rows(self) -> int:
        """C_s, 0 without a source."""
        source = self.data.domains.get("source")
        return source.num_identities if source else 0

    def prepare(self, epoch: int) -> None:
        """New clusters and a new memory; in the epochs of the source alone, its memory."""
        settings = self.cfg.CLUSTER_CONTRAST
        if epoch <= settings.SOURCE_EPOCHS:
            one = torch.zeros_like(self.labels.labels)  # any image may be drawn, none is used
            self.labels.update(one)
            self.memory.replace(self._source_centres())
            return
        first = epoch == settings.SOURCE_EPOCHS + 1
        units = self._features("target")
        labels = find_labels(
            settings.CLUSTER, self.data, units, epoch=epoch, first=first, identities=self.identities
        )
        rows = centroids(units, torch.from_numpy(labels))
        if self.source_rows:
            if first:
                self.net.begin_joint()
            before = self.memory.rows.features[: self.source_rows].cpu()
            rows = torch.cat([self._source_centres() if first else before, rows])
        self.labels.update(labels)
        self.memory.replace(rows)

    def _features(self, domain: str) -> Tensor:
        """Unit features of all images of a domain [N, D], on the CPU."""
        images, precision = self.data.domains[domain].images, self.parts.precision
        size = self.cfg.TEST.BATCH_SIZE
        found = extract(
            self.net, images, self.data.plain, self.data.ranks, precision, batch_size=size, label=domain
        )
        return F.normalize(found.vectors)

    def _source_centres(self) -> Tensor:
        pids = torch.from_numpy(self.data.domains["source"].images.split.pids)
        return centroids(self._features("source"), pids)

    def step(self) -> TrainStep:
        """The source's and the target's halves against all rows of the memory."""
        settings, data, parts = self.cfg.CLUSTER_CONTRAST, self.data, self.parts
        beside = camera_inputs(self.net, data)

        def train_step(engine: Engine, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
            step, alone = engine.state.iteration, engine.state.epoch <= settings.SOURCE_EPOCHS
            domains = ["source"] if alone else list(data.domains)
            images = torch.cat([data.augmented(name, batches[name], step) for name in domains])
            with parts.precision.autocast():
                units = parts.network(images, joint=len(domains) == 2, **beside(domains, batches)).float()
            similarity = self.memory.rows.similarity(units).split(len(units) // len(domains))
            rows = {name: self._rows(name, batches[name]) for name in domains}
            losses = {
                name: contrast(scores, rows[name], temperature=settings.TEMPERATURE)
                for name, scores in zip(domains, similarity)
            }
            loss = torch.stack(list(losses.values())).sum()
            parts.precision.step(loss, parts.optimizer)
            for name, features in zip(domains, units.detach().split(len(units) // len(domains))):
                self._move(name, features, rows[name])
            told = {"loss": loss, **losses}
            if not alone:
                known = self.labels.labels
                told |= {"clusters": known.max() + 1.0, "clustered": (known >= 0).float().mean()}
            return {name: value.detach() for name, value in told.items()}

        return train_step

    def _rows(self, domain: str, batch: Batch) -> Tensor:
        return batch.pids if domain == "source" else self.labels(batch.index) + self.source_rows

    def _move(self, domain: str, units: Tensor, rows: Tensor) -> None:
        settings, memory = self.cfg.CLUSTER_CONTRAST, self.memory.rows
        known = self.source_rows if domain == "source" else len(memory.features) - self.source_rows
        memory.update(
            units,
            rows,
            keep=settings.SOURCE_KEEP if domain == "source" else settings.KEEP,
            hardest=settings.UPDATE == "hard",
            mean=settings.UPDATE == "mean",
            rounds=repeats(self.identities, self.cfg.DATALOADER.INSTANCES, known),
        )
