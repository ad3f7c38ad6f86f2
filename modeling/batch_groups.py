"""Batch norm over groups of images, so that results do not depend on how many images a process holds."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossreid.modeling.errors import ModelError


class _Grouped:
    """What both norms below share.

    In training, each ``group`` consecutive images are normalised by their own statistics; the running statistics move
    once, towards the mean of the groups'.
    """

    group = 1

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or len(x) <= self.group:  # type: ignore[attr-defined]
            return super().forward(x)  # type: ignore[misc]
        if len(x) % self.group:
            raise ModelError(
                f"MODEL.BN_GROUP {self.group} does not divide the {len(x)} images of a process: change it or the batch"
            )
        norm: nn.BatchNorm2d = self  # type: ignore[assignment]
        parts = x.split(self.group)
        means = torch.zeros(len(parts), norm.num_features, device=x.device, dtype=norm.weight.dtype)
        variances = torch.zeros_like(means)
        done = [
            F.batch_norm(part, mean, variance, norm.weight, norm.bias, True, 1.0, norm.eps)
            for part, mean, variance in zip(parts, means, variances)
        ]
        if norm.running_mean is not None and norm.running_var is not None:
            with torch.no_grad():
                share = 0.1 if norm.momentum is None else norm.momentum
                norm.running_mean.lerp_(means.mean(0).to(norm.running_mean.dtype), share)
                norm.running_var.lerp_(variances.mean(0).to(norm.running_var.dtype), share)
                if norm.num_batches_tracked is not None:
                    norm.num_batches_tracked.add_(1)
        return torch.cat(done)


class GroupedBatchNorm1d(_Grouped, nn.BatchNorm1d):
    """Batch norm of [B, D] over groups of rows."""


class GroupedBatchNorm2d(_Grouped, nn.BatchNorm2d):
    """Batch norm of [B, C, H, W] over groups of images."""


GROUPED: dict[type[nn.Module], type[Any]] = {
    nn.BatchNorm1d: GroupedBatchNorm1d,
    nn.BatchNorm2d: GroupedBatchNorm2d,
}


def group_batch_norms(network: nn.Module, group: int) -> None:
    """Let plain batch norms inside a network work on groups of images, in place; parameters keep their names.

    Norms of our own (split, meta) are left: they are other functions.

    Args:
        group: images a group, 2 or more; a smaller batch is one group.
    """
    for name, child in network.named_children():
        if type(child) in GROUPED:
            grouped = GROUPED[type(child)](1)
            grouped.__dict__.update(child.__dict__)
            grouped.group = group
            setattr(network, name, grouped)
        else:
            group_batch_norms(child, group)


class DomainNorm(nn.Module):
    """Two batch norms: the source's for the first half of a joint batch, the target's for all else.

    Args:
        norm: becomes the target's; the source's begins as its copy.

    Source: Chang et al., Domain-Specific Batch Normalization, CVPR 2019.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        like = norm.weight if norm.affine else norm.running_mean
        self.source = type(norm)(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats,
            device=None if like is None else like.device, dtype=None if like is None else like.dtype,
        )  # fmt: skip
        for mine, given in zip(self.source.parameters(), norm.parameters(), strict=True):
            mine.requires_grad_(given.requires_grad)
        self.target, self.joint = norm, False
        self.begin()

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.joint):
            out: Tensor = self.target(x)
            return out
        half = len(x) // 2
        return torch.cat([self.source(x[:half]), self.target(x[half:])])

    def begin(self) -> None:
        """Let the source's norm begin as the target's is now."""
        self.source.load_state_dict(self.target.state_dict())


def separate_domains(network: nn.Module) -> None:
    """Give every plain batch norm inside a network a second one for the source, in place."""
    for name, child in network.named_children():
        if type(child) in GROUPED:
            setattr(network, name, DomainNorm(child))  # type: ignore[arg-type]
        else:
            separate_domains(child)
