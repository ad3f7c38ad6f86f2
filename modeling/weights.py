"""Weights from files: of backbones, of our checkpoints and of other people's; loading never runs code."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from crossreid.modeling.errors import ModelError


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running any code in it.

    Raises:
        ModelError: a missing, truncated or foreign file, or one that holds more than tensors and plain values.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ModelError(f"no checkpoint {path}")
    _check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = "GLOBAL" in str(error) or "Unsupported" in str(error)
        why = "it holds objects other than tensors and is not loaded" if refused else "it is damaged"
        raise ModelError(
            f"{path} cannot be read: {why}; keep only its state_dict, or copy it again"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path} is not a whole checkpoint ({first_line(error)})") from None
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds a {type(content).__name__}, not a state_dict")
    return dict(content)


def _check_archive(path: Path) -> None:
    """Compare every part of a checkpoint's archive with its CRC; files older than that format hold none."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
        damaged = first_line(error)  # NotImplementedError, of a damaged header, is a RuntimeError
    if damaged:
        raise ModelError(f"{path} is damaged ({damaged}): copy it again, or use an earlier checkpoint")


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its kind where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:120]


def state_dict_of(content: Mapping[str, Any], origin: str) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint: under ``model`` or ``state_dict``, or bare; ``module.`` is stripped."""
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    weights = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    if not weights:
        raise ModelError(f"{origin} holds no weights (looked under model, state_dict and at the top)")
    return {k.removeprefix("module."): v for k, v in weights.items()}


def load_network(
    network: nn.Module, weights: Mapping[str, torch.Tensor], origin: str, *, optional: tuple[str, ...] = ()
) -> list[str]:
    """Copy weights into a network; keys that start with an ``optional`` prefix may be missing or of another shape.

    Returns:
        The keys that were skipped, sorted, to be named once.

    Raises:
        ModelError: the first keys that differ, when the network needs them.
    """
    if translate := getattr(network, "translated", None):  # names of a published program
        weights = translate(weights)
    own = network.state_dict()
    wrong = [k for k in own if k not in weights or weights[k].shape != own[k].shape]
    needed = [k for k in wrong if not k.startswith(optional)] if optional else wrong
    if needed:
        lines = [f"{k} ({_shape(weights.get(k))} in the file, {_shape(own[k])} here)" for k in needed[:3]]
        raise ModelError(
            f"{origin} is of another architecture: {len(needed)} of {len(own)} weights differ, first {'; '.join(lines)}"
        )
    network.load_state_dict({k: weights[k] for k in own if k not in wrong}, strict=False)
    return sorted(set(wrong) | (set(weights) - set(own)))


def _shape(tensor: torch.Tensor | None) -> str:
    return "missing" if tensor is None else "x".join(map(str, tensor.shape)) or "scalar"


def load_backbone(backbone: nn.Module, name: str, pretrained: str) -> None:
    """Fill a backbone from ImageNet weights (``imagenet``) or from a file.

    Raises:
        ModelError: no network and no cached file (the message names the file to place), or weights that differ.
    """
    weights = _imagenet(name) if pretrained == "imagenet" else _from_file(pretrained)
    weights = {k: v for k, v in weights.items() if not k.startswith("fc.")}
    load_network(backbone, weights, f"MODEL.PRETRAINED {pretrained}", optional=_counters(backbone))


def _counters(network: nn.Module) -> tuple[str, ...]:
    """Old weight files lack batch norm's ``num_batches_tracked``."""
    return tuple(k for k in network.state_dict() if k.endswith("num_batches_tracked"))


def _from_file(path: str) -> dict[str, torch.Tensor]:
    weights = state_dict_of(read_checkpoint(path), path)
    inner = {k.removeprefix("backbone."): v for k, v in weights.items() if k.startswith("backbone.")}
    return inner or weights


def _imagenet(name: str) -> dict[str, torch.Tensor]:
    if name.endswith("_ibn_a"):
        raise ModelError(
            f"torchvision has no ImageNet weights of {name}: download its published file (of the IBN-Net authors) "
            "and set MODEL.PRETRAINED to its path, or none"
        )
    enum = torchvision.models.get_model_weights(name)
    weights = getattr(enum, "IMAGENET1K_V1")  # noqa: B009  the field's usual start
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"no ImageNet weights of {name} ({str(error).splitlines()[0]}): place {weights.url} at {file}, "
            "or set MODEL.PRETRAINED to a local file or none"
        ) from None
