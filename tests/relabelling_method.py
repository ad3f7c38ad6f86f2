"""A toy method whose target labels change every epoch, to test that batches are drawn by the labels of their epoch.

Its labels of epoch e are (index + e) mod 4, but -1 for every ninth image; each step records what it was given.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from ignite.engine import Engine
from torch import nn
from yacs.config import CfgNode

from crossreid.configs.schema import Section, number
from crossreid.datasets import Batch
from crossreid.engine.data import Data
from crossreid.engine.distributed import on_first
from crossreid.engine.method import Method
from crossreid.engine.methods.common import new_backbone, training_parts
from crossreid.modeling.pseudo_labels import PseudoLabels
from crossreid.modeling.reid import ReIDNet

SECTION = "TOY"
KEYS = Section()
KEYS.INSTANCES = number(2, 1, 64)  # images of a label in a batch
SEEN: list[tuple[int, list[int], list[int]]] = []  # (step, index, labels) of every step of this process


def labels_of(epoch: int, count: int) -> np.ndarray:
    labels = (np.arange(count) + epoch) % 4
    labels[::9] = -1
    return labels


def build_extractor(cfg: CfgNode) -> nn.Module:
    return ReIDNet(new_backbone(cfg, pretrained=False), 0)


def build(cfg: CfgNode, data: Data) -> Method:
    count = len(data.domains["target"].images)
    net = ReIDNet(new_backbone(cfg), 4)
    parts = training_parts(cfg, data, net, [(net.parameters(), cfg.SOLVER.LR)])
    labels = PseudoLabels(count).to(data.ranks.device)
    data.relabel("target", labels.array, cfg.TOY.INSTANCES)

    def prepare(epoch: int) -> None:
        labels.update(on_first(data.ranks, lambda: labels_of(epoch, count)))

    def train_step(engine: Engine, batches: Mapping[str, Batch]) -> dict[str, torch.Tensor]:
        batch, step = batches["target"], engine.state.iteration
        pids = labels(batch.index)
        SEEN.append((step, batch.index.tolist(), pids.tolist()))
        loss = nn.functional.cross_entropy(parts.network(data.augmented("target", batch, step)).logits, pids)
        parts.precision.step(loss, parts.optimizer)
        return {"loss": loss.detach()}

    return Method(train_step, net, {**parts.state, "labels": labels}, parts.scheduler, prepare)
