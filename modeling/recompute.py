"""Activation checkpointing: stages keep their input alone and are recomputed in the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_stages(backbone: nn.Module, count: int) -> None:
    """Save the memory of the activations inside the first stages, for one more forward pass of these.

    Gradients and batch-norm statistics stay the same: the second pass works on copies of the buffers. Modules and
    names of parameters do not change.

    Args:
        count: stages after the stem, 0 to 4.
    """
    names: tuple[tuple[str, ...], ...] = backbone.stage_names  # type: ignore[assignment]
    for (name,) in names[1 : 1 + count]:
        stage = backbone.get_submodule(name)
        stage.forward = partial(_checkpointed, stage, stage.forward)


def _checkpointed(stage: nn.Module, forward: Any, x: torch.Tensor) -> Any:
    if not torch.is_grad_enabled():
        return forward(x)
    return checkpoint(
        forward,
        x,
        use_reentrant=False,
        preserve_rng_state=False,  # a stage draws nothing
        context_fn=lambda: (contextlib.nullcontext(), _copied_buffers(stage)),
    )


@contextlib.contextmanager
def _copied_buffers(stage: nn.Module) -> Iterator[None]:
    """Batch norm updates copies of its running statistics inside."""
    kept = [(module, dict(module._buffers)) for module in stage.modules() if module._buffers]
    for module, buffers in kept:
        module._buffers.update({name: b if b is None else b.clone() for name, b in buffers.items()})
    try:
        yield
    finally:
        for module, buffers in kept:
            module._buffers.update(buffers)
