"""A memory with one row a cluster: clusters come and go."""

from __future__ import annotations

import torch
from torch import Tensor

from crossreid.modeling.memory import FeatureMemory


class ClusterMemory:
    """A ``FeatureMemory`` whose number of rows changes; a checkpoint holds the rows there are.

    Args:
        dim: D.
        device: of the rows.
    """

    def __init__(self, dim: int, device: torch.device) -> None:
        self.rows = FeatureMemory(1, dim).to(device)

    def replace(self, features: Tensor) -> None:
        """Take new rows [C, D]."""
        device = self.rows.features.device
        self.rows = FeatureMemory(*features.shape, dtype=features.dtype).to(device)
        self.rows.features.copy_(features)

    def state_dict(self) -> dict[str, Tensor]:
        return {"features": self.rows.features}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raise ValueError for rows of another length or type."""
        features, own = state["features"], self.rows.features
        if not isinstance(features, Tensor) or features.dtype != own.dtype:
            raise ValueError(
                f"features is {getattr(features, 'dtype', type(features).__name__)}, not {own.dtype}"
            )
        if features.dim() != 2 or features.shape[1] != own.shape[1]:
            raise ValueError(
                f"features is {tuple(features.shape)}, this run's rows have {own.shape[1]} numbers"
            )
        self.replace(features)
