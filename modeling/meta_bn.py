"""Batch norm that remembers the statistics of meta-train domains and mixes draws from them into meta-test features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossreid.modeling.errors import ModelError


class MetaBatchNorm1d(nn.BatchNorm1d):
    """Batch norm with slots for the batch statistics of the meta-train domains.

    Differentiable twice, works under ``torch.func.functional_call``; half precision is normalised and returned in
    the type of the weight. The slots belong to a step, not to a checkpoint.

    Args:
        num_features: D.
        scale: what the draws take as their standard deviation: "variance", as published, or "std", its root.
        kwargs: ``eps``, ``momentum``, ``affine`` of :class:`torch.nn.BatchNorm1d`.

    Raises:
        ModelError: another scale.

    Source: Zhao et al., Learning to Generalize Unseen Domains via Memory-based Multi-Source Meta-Learning, CVPR 2021.
    """

    def __init__(
        self, num_features: int, *, scale: Literal["variance", "std"] = "variance", **kwargs: Any
    ) -> None:
        super().__init__(num_features, **kwargs)
        if scale not in ("variance", "std"):
            raise ModelError(f"MetaBN scale {scale!r}; it is 'variance' or 'std'")
        self.scale = scale
        self.means: dict[int, Tensor] = {}  # slot -> [D], without graph
        self.vars: dict[int, Tensor] = {}  # slot -> [D], biased

    def forward(self, x: Tensor, *, store: int | None = None) -> Tensor:
        """Ordinary batch norm of x [B, D].

        Args:
            store: slot, from 0, that takes the batch's mean and biased variance (training only); None: none.

        Raises:
            ModelError: a batch of one row in training, which has no variance.
        """
        x = self._checked(x)
        if self.training and store is not None:
            var, mean = torch.var_mean(x.detach(), dim=0, correction=0)
            self.means[store], self.vars[store] = mean, var
        return super().forward(x)

    def mixed(
        self,
        x: Tensor,
        *,
        samples: Sequence[Tensor] | None = None,
        lam: float | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """One normalised copy of x for every stored slot: ``lam * draw + (1 - lam) * x`` by its own statistics.

        The running statistics stay as they are; the call counts as one batch. In evaluation every copy is the
        ordinary output.

        Args:
            x: [B, D].
            samples: a draw [B, D] for every stored slot, in slot order; None: drawn from the slot's Gaussian.
            lam: weight of the draw, 0..1, the same for all slots; None: drawn from Beta(1, 1).
            generator: source of the draws; it may live on the CPU whatever x's device.

        Returns:
            [B, D] a stored slot, in slot order.

        Raises:
            ModelError: no slot is stored, another number of samples, or a batch of one row in training.
        """
        slots = sorted(self.means)
        if not slots:
            raise ModelError(
                "MetaBN has no stored domain: run forward(x, store=slot) on the meta-train domains first"
            )
        if samples is not None and len(samples) != len(slots):
            raise ModelError(f"MetaBN got {len(samples)} samples for {len(slots)} stored domains")
        x = self._checked(x)
        if not self.training:
            return [super(MetaBatchNorm1d, self).forward(x) for _ in slots]
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        if lam is None:  # Beta(1, 1) is the uniform distribution
            lam = _random(torch.rand, (), x, generator)
        if samples is None:
            samples = [self._draw(slot, x, generator) for slot in slots]
        copies = [lam * sample + (1 - lam) * x for sample in samples]
        return [F.batch_norm(u, None, None, self.weight, self.bias, True, 0.0, self.eps) for u in copies]

    def deviation(self, slot: int) -> Tensor:
        """Standard deviation [D] that the draws of a slot take; a zero is clamped."""
        deviation = self.vars[slot] if self.scale == "variance" else self.vars[slot].sqrt()
        return deviation.clamp_min(1e-12)

    def forget(self) -> None:
        """Empty the slots, for a step with other meta-train domains."""
        self.means.clear()
        self.vars.clear()

    def _draw(self, slot: int, x: Tensor, generator: torch.Generator | None) -> Tensor:
        noise = _random(torch.randn, tuple(x.shape), x, generator)
        return self.means[slot].to(x.dtype) + noise * self.deviation(slot).to(x.dtype)

    def _checked(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        if self.training and len(x) < 2:
            raise ModelError(f"batch norm got a batch of {len(x)}; it needs 2 rows or more in training")
        return x if self.weight is None else x.to(torch.promote_types(x.dtype, self.weight.dtype))


def _random(draw: Any, shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    numbers: Tensor = draw(shape, dtype=like.dtype, device=device, generator=generator)
    return numbers.to(like.device, non_blocking=True)
