"""Large CPU tensors from recycled memory.

A fresh block of many megabytes costs a page fault every 4 KiB, several times what filling it costs. Here a
block goes back to a pool when the last tensor that looks at it is gone, and the next batch of that size takes it.
"""

from __future__ import annotations

import math
import os
import threading
import weakref

import numpy as np
import torch
from numpy.typing import NDArray

MAX_BLOCKS = 8  # of one size; more are given back to the system
_pool: dict[int, list[NDArray[np.uint8]]] = {}
_lock = threading.RLock()  # a finaliser may run inside any of the lines below


def _after_fork() -> None:
    """Another thread may have held the lock when a worker was forked."""
    global _lock
    _lock = threading.RLock()
    _pool.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _give_back(block: NDArray[np.uint8]) -> None:
    with _lock:
        blocks = _pool.setdefault(block.nbytes, [])
        if len(blocks) < MAX_BLOCKS:
            blocks.append(block)


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str = "cpu") -> torch.Tensor:
    """An uninitialised contiguous tensor, on the CPU from recycled memory."""
    size = math.prod(shape) * dtype.itemsize
    if torch.device(device).type != "cpu" or size == 0:
        return torch.empty(shape, dtype=dtype, device=device)
    with _lock:
        blocks = _pool.get(size)
        block = blocks.pop() if blocks else np.empty(size, np.uint8)
    view = block[:]  # lives exactly as long as some tensor uses the block
    weakref.finalize(view, _give_back, block).atexit = False
    return torch.from_numpy(view).view(dtype).view(shape)
