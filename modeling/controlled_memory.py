"""A patch memory that a controller moves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossreid.modeling.errors import ModelError
from crossreid.modeling.memory import check, joined, one_by_one


class ControlledPatchMemory(nn.Module):
    """Bank of patch features moved by a controller, K patches a row; rows are never normalised.

    With the deviation r of a visit's feature from its row: the row moves by ``gain`` r, plus ``integral`` times the sum
    of all its deviations so far, plus ``derivative`` times the growth of r since what the last visit left.

    Args:
        num_rows: N.
        patches: K.
        dim: D.
        gain, integral, derivative: of the controller; the last two 0: a running mean.

    Source: the program of Central Feature Learning for Unsupervised Person Re-identification.
    """

    features: Tensor  # [K, N, D]
    total: Tensor  # [K, N, D] sum of the deviations
    left: Tensor  # [K, N, D] deviation from the row that the last visit made

    def __init__(
        self,
        num_rows: int,
        patches: int,
        dim: int,
        *,
        gain: float,
        integral: float,
        derivative: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if min(num_rows, patches, dim) < 1:
            raise ModelError(
                f"a memory of {num_rows} rows, {patches} patches, {dim} numbers; all must be at least 1"
            )
        self.gain, self.integral, self.derivative = gain, integral, derivative
        for name in ("features", "total", "left"):
            self.register_buffer(name, torch.zeros(patches, num_rows, dim, dtype=dtype))

    @torch.no_grad()
    def update(self, features: Tensor, index: Tensor, *, rounds: int | None = None) -> None:
        """Visit rows, in batch order for repeated rows; the batch of several ranks is joined in rank order.

        Args:
            features: [K, B, D]; no graph is kept.
            index: [B] row of each image, 0..N-1; not checked on the device.
            rounds: as in :meth:`FeatureMemory.update`.

        Raises:
            ModelError: shapes that do not fit.
        """
        patches, _, dim = self.features.shape
        check(features, index, 0, (patches, len(index), dim))
        new, index = joined(features.transpose(0, 1).flatten(1), index)  # [B, K D]
        banks = (self.features, self.total, self.left)
        old = torch.cat([bank[:, index].transpose(0, 1).flatten(1) for bank in banks], dim=1)  # [B, 3 K D]
        states = one_by_one(old, new.to(old.dtype), index, rounds, self._visit)
        for bank, rows in zip(banks, states.chunk(3, dim=1)):
            bank.index_copy_(1, index, rows.view(-1, patches, dim).transpose(0, 1))

    def _visit(self, state: Tensor, new: Tensor) -> Tensor:
        row, total, left = state.chunk(3, dim=1)
        deviation = new - row
        total = total + deviation
        row = row + self.gain * deviation + self.integral * total + self.derivative * (deviation - left)
        return torch.cat([row, total, new - row], dim=1)
