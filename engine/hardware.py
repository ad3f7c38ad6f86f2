"""What a run asks of PyTorch and of the network for its device: TF32, kernel search, compiling, recomputation."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec

import torch
from torch import nn
from yacs.config import CfgNode

from crossreid.engine.errors import InputError
from crossreid.modeling.recompute import recompute_stages

Inputs = ParamSpec("Inputs")


def set_arithmetic(cfg: CfgNode) -> None:
    """Deterministic kernels, TF32 and cuDNN's search for the fastest convolution, as the config says.

    Only convolutions use TF32. Matrix products outside autocast are those of losses and memories: true float32.
    """
    torch.use_deterministic_algorithms(cfg.DETERMINISTIC, warn_only=True)
    torch.backends.cudnn.benchmark = not cfg.DETERMINISTIC  # batches have one shape
    torch.backends.cudnn.allow_tf32 = cfg.SOLVER.TF32
    torch.backends.cuda.matmul.allow_tf32 = False


@contextlib.contextmanager
def for_evaluation() -> Iterator[None]:
    """Convolutions in true float32 where autocast leaves them, networks as they are written; then as before.

    Evaluation batches come in several sizes: each would be compiled, and searched for the fastest kernels, anew.
    """
    cudnn = torch.backends.cudnn
    saved = cudnn.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32, cudnn.benchmark = False, False
    compiled = "torch._dynamo" in sys.modules  # its import takes seconds, only a compiled run pays it
    try:
        with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
            yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark = saved


def prepare_backbones(cfg: CfgNode, network: nn.Module, device: torch.device) -> None:
    """Compile the backbones in a network, or checkpoint activations of their first stages; parameters keep their names.

    Raises:
        InputError: ``MODEL.COMPILE`` without what compiling needs, or no stages to recompute.
    """
    backbones = [module for module in network.modules() if hasattr(module, "stage_names")]
    if cfg.MODEL.COMPILE:
        if missing := missing_for_compiling(device):
            raise InputError(f"MODEL.COMPILE true needs {missing}: install it, or set MODEL.COMPILE false")
        for backbone in backbones:
            _compile(backbone)
    if cfg.MODEL.CHECKPOINT_STAGES and not backbones:
        raise InputError(
            f"MODEL.CHECKPOINT_STAGES {cfg.MODEL.CHECKPOINT_STAGES}: this network names no stages: set it to 0"
        )
    for backbone in backbones:
        recompute_stages(backbone, cfg.MODEL.CHECKPOINT_STAGES)


def _compile(backbone: nn.Module) -> None:
    """Compile a module in place. PyTorch would silently leave ``nn.Sequential``'s own ``forward`` as it is."""
    if type(backbone).forward is nn.Sequential.forward:
        call = backbone._call_impl
        backbone._compiled_call_impl = torch.compile(lambda *inputs: call(*inputs), dynamic=False)
    else:
        backbone.compile(dynamic=False)


def compiled(cfg: CfgNode, loss: Callable[Inputs, torch.Tensor]) -> Callable[Inputs, torch.Tensor]:
    """The loss as it is written, or compiled where ``MODEL.COMPILE`` says so."""
    return torch.compile(loss) if cfg.MODEL.COMPILE else loss


def missing_for_compiling(device: torch.device) -> str:
    """What this machine lacks for ``torch.compile``, in words; empty if nothing."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        return "a C++ compiler (g++, or name one in CXX)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's header files (python3-dev)"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "the package triton"
    return ""
