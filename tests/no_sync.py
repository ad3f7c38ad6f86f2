"""Finds what would make the host wait for a GPU, on a machine without one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim"}


METHODS = ("cpu", "numpy", "tolist")  # copies to the host, which a CPU tensor need not make


class NoSync(TorchDispatchMode):
    """Context in which an operator whose result the host must read raises: ``.item()``, ``bool(tensor)``, sizes
    that depend on values, indices by a mask, copies to the host."""

    def __enter__(self) -> Any:
        self._patches = [mock.patch.object(torch.Tensor, name, _copies(name)) for name in METHODS]
        for patch in self._patches:
            patch.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        for patch in self._patches:
            patch.stop()
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            x.dtype == torch.bool for x in _tensors(args[1:2]) if x.dim() > 0
        )
        if name in WAITING or by_mask:
            raise AssertionError(f"{name} would make the host wait for the GPU")
        return func(*args, **(kwargs or {}))


def _copies(name: str) -> Callable[..., Any]:
    """The method, forbidden to this thread; loaders of batches may go on."""
    method, thread = getattr(torch.Tensor, name), threading.get_ident()

    def refuse(*args: Any, **options: Any) -> Any:
        if threading.get_ident() == thread:
            raise AssertionError(f"{name} would make the host wait for the GPU")
        return method(*args, **options)

    return refuse


def _tensors(values: Iterable[Any]) -> list[torch.Tensor]:
    return [x for x in tree_leaves(list(values)) if isinstance(x, torch.Tensor)]
