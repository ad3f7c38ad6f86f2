"""Batch norm of a neck that sees a labelled source half and an unlabelled target half in one batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional
import torch.nn.functional as F
from torch import Tensor, nn

from crossreid.modeling.errors import ModelError


class SplitBatchNorm1d(nn.BatchNorm1d):
    """Normalise the first and the second half of a batch by their own statistics with one weight and bias.

    In training only the second half moves the running statistics, which evaluation uses for both. An odd
    batch leaves out its middle row. Half precision is normalised and returned in the type of the weight.

    Args:
        num_features: D.
        sync: take the statistics of each half over all ranks, so that several ranks compute what one computes
            on the joined halves. Plain per-rank statistics where no process group is initialised.
        kwargs: ``eps``, ``momentum``, ``affine`` of :class:`torch.nn.BatchNorm1d`.

    Source: Luo, Song, Zhang, ECCV 2020.
    """

    def __init__(self, num_features: int, *, sync: bool = False, **kwargs: Any) -> None:
        super().__init__(num_features, **kwargs)
        self.sync = sync

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Both normalised halves.

        Args:
            x: [B, D], the source rows first.

        Returns:
            source [B // 2, D] and target [B // 2, D].

        Raises:
            ModelError: a half of one row in training, which has no variance.
        """
        self._check_input_dim(x)
        half = len(x) // 2
        first, second = x[:half], x[len(x) - half :]
        if not self.training:
            return self.whole(first), self.whole(second)
        world = dist.get_world_size() if self.sync and dist.is_available() and dist.is_initialized() else 1
        if half * world < 2 or half == 0:
            raise ModelError(
                f"split batch norm got a batch of {len(x)}; each half needs 2 rows or more in training"
            )
        if world > 1:
            return self._synchronised(self._upcast(first), self._upcast(second))
        normalised = F.batch_norm(
            self._upcast(first), None, None, self.weight, self.bias, True, 0.0, self.eps
        )
        return normalised, self.whole(second)

    def whole(self, x: Tensor) -> Tensor:
        """The ordinary batch norm of one batch [B, D]: what the target half gets, and single-domain
        training."""
        return super().forward(self._upcast(x))

    def _upcast(self, x: Tensor) -> Tensor:
        return x if self.weight is None else x.to(torch.promote_types(x.dtype, self.weight.dtype))

    def _synchronised(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        local = []
        for half in (first, second):
            mean = half.mean(dim=0)
            local += [mean, (half - mean).square().sum(dim=0), torch.full_like(mean, len(half))]
        gathered = torch.stack(
            torch.distributed.nn.functional.all_gather(torch.stack(local))
        )  # [ranks, 6, D]
        mean_1, var_1, _ = _merged(*gathered[:, :3].unbind(1))
        mean_2, var_2, count = _merged(*gathered[:, 3:].unbind(1))
        self._move_running(mean_2.detach(), var_2.detach() * (count / (count - 1)))
        return self._affine(first, mean_1, var_1), self._affine(second, mean_2, var_2)

    def _affine(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        y = (x - mean) * (var + self.eps).rsqrt()
        return y if self.weight is None else torch.addcmul(self.bias, y, self.weight)

    def _move_running(self, mean: Tensor, unbiased_var: Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.add_(share * (mean.to(self.running_mean.dtype) - self.running_mean))
        self.running_var.add_(share * (unbiased_var.to(self.running_var.dtype) - self.running_var))


def _merged(means: Tensor, squares: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and count over all ranks, each [D], from those of the ranks, each [ranks, D]."""
    count = counts.sum(dim=0)
    mean = (counts * means).sum(dim=0) / count
    return mean, (squares + counts * (means - mean).square()).sum(dim=0) / count, count
