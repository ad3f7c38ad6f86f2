"""Camera proxies: pseudo-labels by clustering, and a memory with one row a cluster and camera.

CAP is the intra-camera and the offline term; O2CAP is the offline and the online term.

Source: Wang et al., CAP, AAAI 2021; Wang et al., Offline-Online Associated Camera-Aware Proxies (O2CAP), TIP 2022.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from crossreid.datasets import Batch
from crossreid.engine.data import Data
from crossreid.engine.distributed import gathered
from crossreid.engine.evaluation.extraction import extract
from crossreid.engine.method import Method, TrainStep
from crossreid.engine.methods.common import TrainingParts, new_backbone, pooling, training_parts
from crossreid.engine.methods.relabel import check_cameras, check_target, find_labels, repeats
from crossreid.losses import proxies
from crossreid.losses.clusters import centroids
from crossreid.modeling.cluster_memory import ClusterMemory
from crossreid.modeling.cluster_net import ClusterNet
from crossreid.modeling.pseudo_labels import PseudoLabels


def build_extractor(cfg: CfgNode) -> nn.Module:
    """The network, with weights still to be loaded."""
    return ClusterNet(new_backbone(cfg, pretrained=False), pool=pooling(cfg))


def build(cfg: CfgNode, data: Data) -> Method:
    """Network, memory, labels, optimizer and training step."""
    settings, ranks = cfg.CAMERA_PROXY, data.ranks
    check_target(settings.CLUSTER, data, "CAMERA_PROXY")
    check_cameras(data, "METHOD camera_proxy", "use cluster_contrast")
    net = ClusterNet(new_backbone(cfg), pool=pooling(cfg))
    new = [*net.pool.parameters(), *net.neck.parameters()]
    groups = [(net.backbone.parameters(), cfg.SOLVER.LR), (new, cfg.SOLVER.NEW_LR)]
    parts = training_parts(cfg, data, net, groups, static=cfg.SOLVER.ACCUMULATE == 1)
    images = len(data.domains["target"].images)
    labels, own = PseudoLabels(images).to(ranks.device), PseudoLabels(images).to(ranks.device)
    learner = Proxies(cfg, data, net, parts, labels, own, ClusterMemory(net.dim, ranks.device))
    data.relabel("target", labels.array, cfg.DATALOADER.INSTANCES)
    state = {**parts.state, "labels": labels, "proxies": own, "memory": learner.memory}
    return Method(learner.step(), net, state, parts.scheduler, learner.prepare)


@dataclass(frozen=True)
class Proxies:
    """Clusters, proxies and memory, renewed every epoch, and the step that learns from them."""

    cfg: CfgNode
    data: Data
    net: ClusterNet
    parts: TrainingParts
    labels: PseudoLabels  # cluster of each image
    own: PseudoLabels  # proxy of each image
    memory: ClusterMemory
    _places: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def identities(self) -> int:
        """P, over all ranks."""
        return self.data.batch_size // self.cfg.DATALOADER.INSTANCES

    def prepare(self, epoch: int) -> None:
        """New clusters, proxies and memory."""
        settings, images = self.cfg.CAMERA_PROXY, self.data.domains["target"].images
        found = extract(
            self.net, images, self.data.plain, self.data.ranks, self.parts.precision,
            batch_size=self.cfg.TEST.BATCH_SIZE, label="target",
        )  # fmt: skip
        units = F.normalize(found.vectors)
        labels = find_labels(
            settings.CLUSTER, self.data, units, epoch=epoch, first=epoch == 1, identities=self.identities
        )
        own = proxies.split(torch.from_numpy(labels), torch.from_numpy(images.split.cams))
        self.labels.update(labels)
        self.own.update(own)
        self.memory.replace(centroids(units, own))

    def places(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Cluster and camera of each proxy [M]; made once an epoch."""
        if epoch not in self._places:
            own, count = self.own.labels, len(self.memory.rows.features)
            rows = torch.where(own >= 0, own, count)  # outliers go to a row of their own, which is dropped
            both = (self.labels.labels, self.data.domains["target"].cams)
            cluster, camera = (
                values.new_zeros(count + 1).index_copy_(0, rows, values)[:count] for values in both
            )
            self._places.clear()
            self._places[epoch] = cluster, camera
        return self._places[epoch]

    def step(self) -> TrainStep:
        """The three terms by their weights."""
        settings, data, parts = self.cfg.CAMERA_PROXY, self.data, self.parts

        def train_step(engine: Engine, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
            batch, step, epoch = batches["target"], engine.state.iteration, engine.state.epoch
            with parts.precision.autocast():
                units = parts.network(data.augmented("target", batch, step)).float()
            losses = self.losses(units, batch, epoch)
            weights = active_weights(settings, epoch)
            loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
            parts.precision.step(loss, parts.optimizer)
            clusters = int(self.memory.rows.features.shape[0])
            self.memory.rows.update(
                units,
                self.own(batch.index),
                keep=settings.KEEP,
                rounds=repeats(self.identities, self.cfg.DATALOADER.INSTANCES, self._fewest(clusters)),
            )
            known = self.labels.labels
            told = {"loss": loss, **losses, "clusters": known.max() + 1.0}
            told["clustered"] = (known >= 0).float().mean()
            return {name: value.detach() for name, value in told.items()}

        return train_step

    def _fewest(self, rows: int) -> int:
        """Clusters that there are at least, with so many proxies."""
        return max(2, -(-rows // self.data.domains["target"].num_cameras))

    def losses(self, units: Tensor, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """The terms that count in an epoch, unweighted."""
        settings, memory = self.cfg.CAMERA_PROXY, self.memory.rows
        cluster, camera = self.places(epoch)
        similarity, own, cams = memory.similarity(units), self.own(batch.index), batch.cams
        options = {"temperature": settings.TEMPERATURE, "share": self._shares(cams)}
        terms = {
            "intra": lambda: proxies.intra(similarity, own, cams, camera, **options),
            "offline": lambda: proxies.offline(
                similarity, self.labels(batch.index), cams, cluster, negatives=settings.NEGATIVES, **options
            ),
            "online": lambda: proxies.online(
                similarity, own, cams, memory.features, camera, negatives=settings.NEGATIVES,
                positives=settings.POSITIVES, weight=settings.BALANCE, **options,
            ),
        }  # fmt: skip
        return {name: terms[name]() for name in active_weights(settings, epoch)}

    def _shares(self, cams: Tensor) -> Tensor | None:
        """Each image's weight, by the cameras of all ranks' images; the mean over ranks is then the sum."""
        ranks = self.data.ranks
        if ranks.world == 1:
            return None
        everyone = gathered(cams, ranks)
        return proxies.shares(everyone)[ranks.rank * len(cams) :][: len(cams)] * ranks.world


def active_weights(settings: CfgNode, epoch: int) -> dict[str, float]:
    """Weights of the terms that count in an epoch (from 1)."""
    weights = {
        "intra": (settings.INTRA_WEIGHT, 1),
        "offline": (settings.OFFLINE_WEIGHT, settings.OFFLINE_START),
        "online": (settings.ONLINE_WEIGHT, settings.ONLINE_START),
    }
    return {name: weight for name, (weight, start) in weights.items() if weight > 0 and epoch >= start}
