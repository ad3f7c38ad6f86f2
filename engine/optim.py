"""Optimizer, learning-rate schedule and mixed precision from the config."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from yacs.config import CfgNode

from crossreid.engine.arithmetic import DTYPES, resolve
from crossreid.modeling.interface import stages_of


def build_optimizer(cfg: CfgNode, groups: Iterable[tuple[Iterable[nn.Parameter], float]]) -> Optimizer:
    """The optimizer of ``SOLVER`` over groups of parameters, each with its learning rate.

    Parameters that do not require gradients, and groups without any other, are left out.
    """
    solver = cfg.SOLVER
    trained = [{"params": [p for p in params if p.requires_grad], "lr": rate} for params, rate in groups]
    trained = [group for group in trained if group["params"]]
    common: dict[str, Any] = {
        "weight_decay": solver.WEIGHT_DECAY,
        "fused": True,
    }  # one pass over all parameters
    if solver.OPTIMIZER == "sgd":
        return SGD(trained, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, **common)
    return {"adam": Adam, "adamw": AdamW}[solver.OPTIMIZER](trained, **common)


def decayed(
    groups: Iterable[tuple[Iterable[nn.Parameter], float]], network: nn.Module, decay: float
) -> list[tuple[list[nn.Parameter], float]]:
    """Groups whose rates fall by ``decay`` from each layer of the backbones to the one before it.

    A layer is a module that ``stage_names`` names; what a backbone holds before the layers, such as position
    embeddings, counts to the first one, what it holds behind them learns at the full rate, like all else.
    """
    exponents: dict[int, int] = {}
    for backbone in (module for module in network.modules() if hasattr(module, "stage_names")):
        layers = [name for stage in stages_of(backbone) for name in stage]
        for name, parameter in backbone.named_parameters():
            place = [i for i, layer in enumerate(layers) if name.startswith(f"{layer}.")]
            bare = 0 if "." not in name else len(layers)
            exponents[id(parameter)] = len(layers) - (place[0] if place else bare)
    split: list[tuple[list[nn.Parameter], float]] = []
    for parameters, rate in groups:
        found: dict[int, list[nn.Parameter]] = {}
        for parameter in parameters:
            found.setdefault(exponents.get(id(parameter), 0), []).append(parameter)
        split += [(found[e], rate * decay**e) for e in sorted(found)]
    return split


def rate_factor(
    epoch: int,
    *,
    epochs: int,
    scheduler: str,
    steps: list[int],
    gamma: float,
    warmup: int,
    warmup_factor: float,
) -> float:
    """The learning rate of an epoch as a share of the configured one.

    Args:
        epoch: finished epochs, from 0.
        steps: multistep: the factor ``gamma`` enters after each of these epochs.
        warmup: epochs over which the rate rises linearly from ``warmup_factor``.
    """
    ramp = warmup_factor + (1 - warmup_factor) * min(1.0, epoch / warmup) if warmup else 1.0
    if scheduler == "cosine":
        progress = max(0, epoch - warmup) / max(1, epochs - warmup)
        return ramp * 0.5 * (1 + math.cos(math.pi * progress))
    return ramp * gamma ** sum(epoch >= step for step in steps)


def build_scheduler(
    cfg: CfgNode, optimizer: Optimizer, factors: Mapping[int, Callable[[int], float]] | None = None
) -> LambdaLR:
    """The schedule, to be stepped once an epoch.

    Args:
        factors: by the number of a group, its rate's factor after some finished epochs, in place of ``SOLVER``'s.
    """
    solver = cfg.SOLVER
    options = {
        "epochs": solver.EPOCHS,
        "scheduler": solver.SCHEDULER,
        "steps": list(solver.STEPS),
        "gamma": solver.GAMMA,
        "warmup": solver.WARMUP_EPOCHS,
        "warmup_factor": solver.WARMUP_FACTOR,
    }
    factors = factors or {}

    def usual(epoch: int) -> float:
        return rate_factor(epoch, **options)

    return LambdaLR(optimizer, [factors.get(i, usual) for i in range(len(optimizer.param_groups))])


class Precision:
    """How a loss becomes a step: autocast, the loss scaler of float16, accumulation and clipping of gradients.

    Args:
        amp: auto, float32, float16 (GPUs only) or bfloat16.
        device: where the network runs.
        accumulate: losses whose mean gradient makes one optimizer step.
        clip: max global gradient norm; 0: off.
    """

    def __init__(self, amp: str, device: torch.device, *, accumulate: int = 1, clip: float = 0.0) -> None:
        amp, _ = resolve(amp, device)
        self.dtype, self.device = DTYPES[amp], device
        self.accumulate, self.clip, self._added = accumulate, clip, 0
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "float16")

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context for forward passes."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def step(self, loss: torch.Tensor, optimizer: Optimizer) -> None:
        """Backward and, with the last loss of a group, one optimizer step."""
        if self._added == 0:
            optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss / self.accumulate).backward()
        self._added = (self._added + 1) % self.accumulate
        if self._added == 0:
            self.apply(optimizer)

    def apply(self, optimizer: Optimizer) -> None:
        """Clip and step with the (scaled) gradients there are; an overflow of float16 leaves the step out."""
        if self.clip:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], self.clip)
        self.scaler.step(optimizer)
        self.scaler.update()


def training_precision(cfg: CfgNode, device: torch.device) -> Precision:
    """The precision of ``SOLVER`` for training."""
    solver = cfg.SOLVER
    return Precision(solver.AMP, device, accumulate=solver.ACCUMULATE, clip=solver.GRAD_CLIP)
