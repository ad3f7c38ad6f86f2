"""Large CPU tensors from recycled memory.

A fresh block of many megabytes costs a page fault every 4 KiB, several times what filling it costs. Here a
block goes back when the last tensor that looks at it is gone, and the next batch of that size takes it.
"""

from __future__ import annotations

import math
import weakref
from collections import defaultdict, deque

import numpy as np
import torch
from numpy.typing import NDArray

MAX_BLOCKS = 8  # of one size; more are given back to the system
_pool: defaultdict[int, deque[NDArray[np.uint8]]] = defaultdict(lambda: deque(maxlen=MAX_BLOCKS))


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str = "cpu") -> torch.Tensor:
    """An uninitialised contiguous tensor, on the CPU from recycled memory."""
    size = math.prod(shape) * dtype.itemsize
    if torch.device(device).type != "cpu" or size == 0:
        return torch.empty(shape, dtype=dtype, device=device)
    try:
        block = _pool[size].pop()
    except IndexError:
        block = np.empty(size, np.uint8)
    view = block[:]  # lives exactly as long as some tensor uses the block
    weakref.finalize(view, _pool[size].append, block).atexit = False
    return torch.from_numpy(view).view(dtype).view(shape)
