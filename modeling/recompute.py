"""Activation checkpointing: stages keep their input alone and are recomputed in the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from crossreid.modeling.errors import ModelError
from crossreid.modeling.interface import stages_of


def recompute_stages(backbone: nn.Module, count: int) -> None:
    """Activation checkpointing of the first stages: their activations are recomputed in the backward pass.

    Gradients and batch-norm statistics stay the same: the second pass works on copies of the buffers. Modules and
    names of parameters do not change.

    Args:
        count: stages after the stem, 0 to all.

    Raises:
        ModelError: the backbone has fewer stages.
    """
    names = stages_of(backbone)
    if count >= len(names) and count:
        raise ModelError(
            f"MODEL.CHECKPOINT_STAGES {count}: {type(backbone).__name__} has {max(0, len(names) - 1)} stages after its "
            "stem, lower it"
        )
    for stages in names[1 : 1 + count]:
        for name in stages:
            stage = backbone.get_submodule(name)
            stage.forward = partial(_checkpointed, stage, stage.forward)


def _checkpointed(stage: nn.Module, forward: Any, *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    draws = any(getattr(m, "p", 0) or getattr(m, "drop_prob", 0) for m in stage.modules())
    return checkpoint(
        forward,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=draws,  # of a stage that drops paths, both passes the same
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
