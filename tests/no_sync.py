"""Finds what would make the host wait for a GPU, on a machine without one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim"}


class NoSync(TorchDispatchMode):
    """Context in which an operator whose result the host must read raises: ``.item()``, ``bool(tensor)``, sizes
    that depend on values, indices by a mask."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            x.dtype == torch.bool for x in _tensors(args[1:2]) if x.dim() > 0
        )
        if name in WAITING or by_mask:
            raise AssertionError(f"{name} would make the host wait for the GPU")
        return func(*args, **(kwargs or {}))


def _tensors(values: Iterable[Any]) -> list[torch.Tensor]:
    return [x for x in tree_leaves(list(values)) if isinstance(x, torch.Tensor)]
