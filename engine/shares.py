"""How several ranks share rows of work, and join what they found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

Array = np.ndarray


@dataclass(frozen=True)
class Shares:
    """This process among those that share the rows; alone by default."""

    rank: int = 0
    world: int = 1

    @staticmethod
    def of(distributed: bool) -> Shares:
        """All ranks of the process group, or this process alone."""
        return Shares(dist.get_rank(), dist.get_world_size()) if distributed else Shares()

    def bounds(self, rows: int, tile: int) -> tuple[int, int]:
        """First and last row of the own contiguous share, in whole tiles; no row belongs to two."""
        tiles = -(-rows // tile)
        first, last = (tiles * rank // self.world * tile for rank in (self.rank, self.rank + 1))
        return min(rows, first), min(rows, last)

    def total(self, values: Array) -> Array:
        """Sum of the ranks' arrays of one shape, on all of them."""
        if self.world == 1:
            return values
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.from_numpy(values).to(device)
        dist.all_reduce(tensor)
        return tensor.cpu().numpy()

    def stack(self, values: torch.Tensor) -> torch.Tensor:
        """The ranks' tensors of one shape [ranks, ...], on all of them."""
        if self.world == 1:
            return values[None]
        own = values.to("cuda" if dist.get_backend() == "nccl" else "cpu").contiguous()
        parts = own.new_empty(self.world * len(own), *own.shape[1:])
        dist.all_gather_into_tensor(parts, own)
        return parts.view(self.world, *own.shape)

    def gather(self, values: Array) -> Array:
        """The ranks' arrays [n_r] one after the other, on all of them."""
        if self.world == 1:
            return values
        parts: list[Array] = [values] * self.world
        dist.all_gather_object(parts, values)
        return np.concatenate(parts)


ALONE = Shares()
