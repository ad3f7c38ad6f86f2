"""What a method hands to the trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from ignite.engine import Engine
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from crossreid.datasets import Batch

TrainStep = Callable[[Engine, Mapping[str, Batch]], dict[str, torch.Tensor]]


def _nothing(_: int) -> None:
    return None


def _no_pictures() -> Mapping[str, torch.Tensor]:
    return {}


@dataclass(frozen=True)
class Method:
    """A method, ready to train.

    Args:
        train_step: an ignite process function: batches on the device in, detached losses and counts out.
        extractor: images to retrieval features in evaluation mode; the bare network, never a DDP wrapper.
        state: all that a checkpoint must hold, by name; ``model`` is the network (averaged over ranks by the trainer).
        scheduler: stepped at the end of every epoch.
        prepare: called with the epoch (from 1) before its first step, never in its middle: fills memories.
        pictures: called on the first rank alone after every evaluation: name -> uint8 [3, H, W], kept as PNG and in
            TensorBoard.
        milestones: epochs after which the target is evaluated whatever ``TEST.PERIOD`` says: epoch -> row title.
    """

    train_step: TrainStep
    extractor: nn.Module
    state: Mapping[str, Any]
    scheduler: LRScheduler
    prepare: Callable[[int], None] = _nothing
    milestones: Mapping[int, str] = field(default_factory=dict)
    pictures: Callable[[], Mapping[str, torch.Tensor]] = _no_pictures
