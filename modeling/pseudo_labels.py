"""Labels of the target's images that change during training; part of every checkpoint."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class PseudoLabels(nn.Module):
    """One label an image: clusters 0 to C - 1, -1 for outliers (all, before the first ``update``).

    The dataset itself never changes: the identities of a batch are ``labels(batch.index)``.

    Args:
        num_images: N.

    Examples:
        >>> labels = PseudoLabels(4)
        >>> labels.update(torch.tensor([1, 0, -1, 1]))
        >>> labels(torch.tensor([3, 2])).tolist(), labels.num_clusters
        ([1, -1], 2)
    """

    labels: Tensor

    def __init__(self, num_images: int) -> None:
        super().__init__()
        self.register_buffer("labels", torch.full((num_images,), -1, dtype=torch.int64))

    def forward(self, index: Tensor) -> Tensor:
        """Labels [B] of images [B], on the device, without waiting for it."""
        return self.labels[index]

    @torch.no_grad()
    def update(self, labels: Tensor | NDArray[np.int64]) -> None:
        """Take new labels [N].

        Raises:
            ValueError: another number of labels, or clusters that are not numbered 0 to C - 1.
        """
        new = torch.as_tensor(labels, dtype=torch.int64)
        if new.shape != self.labels.shape:
            raise ValueError(f"{tuple(new.shape)} labels for {len(self.labels)} images")
        present = new.unique()
        present = present[present >= 0]
        if not torch.equal(present, torch.arange(len(present), device=present.device)) or bool(
            (new < -1).any()
        ):
            raise ValueError("clusters must be numbered 0 to C - 1, outliers -1")
        self.labels.copy_(new)

    @property
    def num_clusters(self) -> int:
        """C; waits for the device."""
        return int(self.labels.max()) + 1

    def array(self) -> NDArray[np.int64]:
        """A copy of the labels [N] for samplers; waits for the device."""
        return self.labels.cpu().numpy().copy()
