"""A GPU played by the CPU: tensors that say they lie on ``cuda:0``, hold real numbers and refuse to meet the CPU's.

Autograd's engine wants a real device, so this is for code without gradients.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

GPU = torch.device("cuda", 0)
COPIES = {"_to_copy", "copy_", "index", "index_put_", "_index_put_impl_"}  # may mix devices on a GPU, too


class OnGPU(Tensor):
    """A CPU tensor that says it is on the GPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, real: Tensor) -> OnGPU:
        made: OnGPU = Tensor._make_wrapper_subclass(
            cls,
            real.shape,
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=GPU,
        )
        made.held = real
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy


class PretendGPU(TorchDispatchMode):
    """Context in which tensors can be made on ``cuda:0``, for machines that have none."""

    def __enter__(self) -> Any:
        torch._C._ensureCUDADeviceGuardSet()  # type: ignore[attr-defined]
        self._driver = mock.patch.object(torch.cuda, "_lazy_init", return_value=None)
        self._driver.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._driver.stop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operator on the CPU; its results are the GPU's if it was asked for there or its inputs are."""
    inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    ours = [x for x in inputs if isinstance(x, OnGPU)]
    name, wanted = func.overloadpacket.__name__, kwargs.get("device")
    strangers = [x for x in inputs if not isinstance(x, OnGPU) and x.dim() > 0]
    if ours and strangers and name not in COPIES:
        raise RuntimeError(
            f"{name}: tensors on different devices, cuda:0 and cpu {tuple(strangers[0].shape)}"
        )
    there = torch.device(wanted).type == "cuda" if wanted is not None else bool(ours)
    if name == "copy_":
        there = isinstance(args[0], OnGPU)
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    same = {id(x.held): x for x in ours}
    args, kwargs = tree_map_only(OnGPU, lambda x: x.held, (args, kwargs))
    result = func(*args, **kwargs)
    if not there:
        return result
    return tree_map_only(Tensor, lambda x: same[id(x)] if id(x) in same else OnGPU(x), result)
