"""Which arithmetic the network trains and is evaluated in: ``SOLVER.AMP auto`` takes the fastest native one."""

from __future__ import annotations

import functools
import time

import torch

from crossreid.engine.errors import InputError
from crossreid.engine.log import LOGGER

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CPU_FLAGS = (
    "_is_avx512_bf16_supported",
    "_is_amx_tile_supported",
)  # of torch.cpu, private but stable since 2.4


@functools.cache
def resolve(amp: str, device: torch.device) -> tuple[str, str]:
    """The arithmetic that ``SOLVER.AMP`` means on a device, and why.

    On GPUs bfloat16 where the hardware has it, else float16. On CPUs bfloat16 only where it is native and faster
    than float32, which a measurement of a few ten milliseconds confirms; else float32.

    Raises:
        InputError: float16 on a CPU.
    """
    if device.type == "cpu":
        return _on_cpu(amp)
    if amp != "auto":
        return amp, "as SOLVER.AMP says"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16", "this GPU has it"
    return "float16", "this GPU has no bfloat16"


def _on_cpu(amp: str) -> tuple[str, str]:
    if amp == "float16":
        raise InputError(
            "SOLVER.AMP float16 needs a GPU: set SOLVER.AMP auto, bfloat16 or float32 for the CPU"
        )
    if amp == "float32":
        return amp, "as SOLVER.AMP says"
    if amp == "auto" and not _may_be_native():
        return "float32", "this CPU has no bfloat16 instructions"
    factor = slowdown()
    if amp == "auto":
        chosen = "bfloat16" if factor < 1 else "float32"
        return chosen, f"a bfloat16 convolution takes {factor:.2g} times the time of a float32 one here"
    if factor > 1:
        LOGGER.warning(
            "SOLVER.AMP bfloat16: a convolution takes %.2g times the time of a float32 one on this CPU; AMP auto "
            "takes the faster",
            factor,
        )
    return amp, "as SOLVER.AMP says"


def _may_be_native() -> bool:
    """Whether this CPU has bfloat16 instructions, or that cannot be known."""
    known = [getattr(torch.cpu, name) for name in CPU_FLAGS if hasattr(torch.cpu, name)]
    limited = torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
    return not limited and (not known or any(flag() for flag in known))


@functools.cache
def slowdown() -> float:
    """Time of a convolution under bfloat16 autocast over its time in float32, on this CPU, now."""
    images, weight = torch.ones(8, 64, 32, 16), torch.ones(64, 64, 3, 3)

    def seconds(dtype: torch.dtype) -> float:
        best = float("inf")
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            for _ in range(4):  # the first one prepares kernels
                start = time.perf_counter()
                torch.nn.functional.conv2d(images, weight, padding=1)
                best = min(best, time.perf_counter() - start)
        return best

    return seconds(torch.bfloat16) / seconds(torch.float32)
