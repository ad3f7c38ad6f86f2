"""A memory's columns, regrouped by camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

WIDTH = 128  # columns of a block, at most


@dataclass(frozen=True)
class CameraBlocks:
    """Rows of a memory as P columns in blocks of equal width, each of one camera; a camera's last one has gaps.

    Args:
        columns: [P] memory row of each column; any in a gap.
        gaps: columns that no row fills.
        place: [N] column of each memory row.
        cams: [blocks] camera of each block.
    """

    columns: Tensor
    gaps: Tensor
    place: Tensor
    cams: Tensor

    @classmethod
    def of(cls, memory_cams: Tensor) -> CameraBlocks:
        """Blocks of [N] cameras, any integers; waits for the device, so make them once."""
        numbers = memory_cams.cpu().numpy()
        order = numbers.argsort(kind="stable")  # rows, camera by camera
        cams, counts = np.unique(numbers, return_counts=True)
        width = min(WIDTH, 1 << (len(order) // (4 * max(len(cams), 1))).bit_length())
        blocks = -(-counts // width)  # of each camera
        shift = (blocks * width).cumsum() - blocks * width - counts.cumsum() + counts
        filled = np.arange(len(order)) + shift.repeat(counts)  # columns, camera by camera
        columns = np.full(blocks.sum() * width, -1)
        columns[filled] = order
        place = np.empty_like(order)
        place[order] = filled
        parts = columns.clip(0), np.flatnonzero(columns < 0), place, cams.repeat(blocks)
        return cls(*(torch.from_numpy(x).to(memory_cams.device) for x in parts))

    @classmethod
    def one_camera(cls, rows: int, device: torch.device) -> CameraBlocks:
        """Blocks of a memory whose rows all count as camera 0; nothing waits."""
        columns = torch.arange(-(-rows // WIDTH) * WIDTH, device=device)
        cams = columns.new_zeros(len(columns) // WIDTH)
        return cls(columns.clamp_max(rows - 1), columns[rows:], columns[:rows], cams)
