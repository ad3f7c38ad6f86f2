"""Weights from files: of backbones, of our checkpoints and of other people's; loading never runs code."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from crossreid.modeling.checkpoints import contained, first_line, load_file, read_weights
from crossreid.modeling.errors import ModelError
from crossreid.modeling.foreign_names import Weights, check_finite
from crossreid.modeling.interface import Normalisation
from crossreid.modeling.side_information import for_cameras

__all__ = ["fill", "first_line", "load_backbone", "load_network", "read_checkpoint", "state_dict_of"]

LOGGER = logging.getLogger("crossreid")
read_checkpoint = load_file
THRESHOLD = 0.9  # of a backbone's numbers that a file must hold
LUPERSON: Normalisation = (
    (89.896 / 255, 79.2 / 255, 80.073 / 255),
    (63.872 / 255, 64.305 / 255, 63.839 / 255),
)
KNOWN = ((r"lup.*(moco|r50|r101|r152|resnet)|(moco|resnet).*lup", LUPERSON),)  # names of published files


def state_dict_of(content: Mapping[str, Any], origin: str) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint: under ``model``, ``state_dict`` …, or bare; ``module.`` is stripped.

    Raises:
        ModelError: it holds none.
    """
    return {k.removeprefix("module."): v for k, v in contained(content, origin).items()}


def load_network(
    network: nn.Module,
    weights: Mapping[str, torch.Tensor],
    origin: str,
    *,
    optional: tuple[str, ...] = (),
) -> list[str]:
    """Copy weights into a network: nothing is cast or broadcast.

    Args:
        optional: prefixes of keys that may be missing or of another shape or type.

    Returns:
        The keys that were skipped, sorted, to be named once.

    Raises:
        ModelError: the first keys that differ, when the network needs them.
    """
    if translate := getattr(network, "translated", None):  # names of a published program
        weights = translate(weights)
    weights = for_cameras(network, weights)
    own = network.state_dict()
    wrong = [k for k in own if k not in weights or not _fits(weights[k], own[k])]
    needed = [k for k in wrong if not k.startswith(optional)] if optional else wrong
    if needed:
        lines = [f"{k} ({_difference(weights.get(k), own[k])})" for k in needed[:3]]
        hint = "; for its backbone alone set MODEL.PRETRAINED to it, for all of it run crossreid convert --to crossreid"
        hint = "" if any(k in weights for k in own) else hint
        raise ModelError(
            f"{origin} is of another architecture: {len(needed)} of {len(own)} weights differ, first "
            f"{'; '.join(lines)}{hint}"
        )
    fitting = {k: weights[k] for k in own if k not in wrong}
    check_finite(fitting, origin)
    network.load_state_dict(fitting, strict=False)
    return sorted(set(wrong) | (set(weights) - set(own)))


def _fits(saved: Any, own: torch.Tensor) -> bool:
    found = (getattr(saved, name, None) for name in ("shape", "dtype", "layout"))
    return tuple(found) == (own.shape, own.dtype, own.layout)


def _difference(saved: Any, own: torch.Tensor) -> str:
    """Both shapes, with the types where they differ: 24x512 in the file, 12x512 here."""
    if not isinstance(saved, torch.Tensor):
        return f"{'missing' if saved is None else type(saved).__name__} in the file, {_shape(own)} here"
    if saved.dtype == own.dtype:
        return f"{_shape(saved)} in the file, {_shape(own)} here"
    return f"{saved.dtype} {_shape(saved)} in the file, {own.dtype} {_shape(own)} here"


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def load_backbone(backbone: Any, name: str, pretrained: str) -> None:
    """Fill a backbone from ImageNet weights (``imagenet``) or from a file of any known project.

    Tells in one line what was loaded, what the file lacks and what was left over; sets the backbone's
    ``normalisation`` to the file's own where it is known.

    Raises:
        ModelError: no network and no cached file (the message names the file to place), or weights that differ.
    """
    weights = Weights(_imagenet(name), {}, []) if pretrained == "imagenet" else read_weights(pretrained)
    fill(backbone, weights, f"MODEL.PRETRAINED {pretrained}")
    if (found := weights.normalisation or known_normalisation(pretrained)) is not None:
        backbone.normalisation = found


def fill(backbone: Any, weights: Weights, origin: str) -> None:
    """Copy what fits into a backbone and tell of the rest in one line: a warning where something is missing.

    Raises:
        ModelError: less than ``THRESHOLD`` of the backbone's numbers are in the file.
    """
    found = backbone.fitted(weights.tensors) if hasattr(backbone, "fitted") else dict(weights.tensors)
    found = {**weights.others, **found}
    own = {k: v for k, v in backbone.state_dict().items() if k != "sie_cameras"}
    needed = {k: v for k, v in own.items() if not k.endswith("num_batches_tracked")}  # old files lack these
    fits = {k: found[k] for k, v in own.items() if k in found and found[k].shape == v.shape}
    missing = [k for k in needed if k not in fits]
    share = sum(v.numel() for k, v in needed.items() if k in fits) / sum(v.numel() for v in needed.values())
    if share < THRESHOLD:
        lines = [f"{k} ({_difference(found.get(k), own[k])})" for k in missing[:3]]
        raise ModelError(
            f"{origin} is of another architecture: {len(missing)} of {len(needed)} weights differ, first "
            f"{'; '.join(lines)}"
        )
    backbone.load_state_dict(fits, strict=False)
    left = sorted([k for k in found if k not in fits and k not in weights.others] + weights.skipped)
    LOGGER.log(
        logging.WARNING if missing or weights.notes else logging.INFO,
        "%s: loaded %d of %d tensors; not in the file: %s; left over: %s%s", origin, len(needed) - len(missing),
        len(needed), _listed(missing), _listed(left), "".join(f"; {note}" for note in weights.notes),
    )  # fmt: skip


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more if names else "none"


def known_normalisation(path: str) -> Normalisation | None:
    """Mean and std of RGB in 0..1 that a published file was trained with, told by its name; None: its network's."""
    name = Path(path).name.lower()
    return next((values for pattern, values in KNOWN if re.search(pattern, name)), None)


def _imagenet(name: str) -> dict[str, torch.Tensor]:
    """torchvision's weights; of an IBN-a network those of the plain one: its instance norms start anew."""
    plain = name.removesuffix("_ibn_a")
    if plain not in torchvision.models.list_models(torchvision.models):
        raise ModelError(
            f"torchvision has no ImageNet weights of {name}: set MODEL.PRETRAINED to a file of its publisher, or none"
        )
    enum = torchvision.models.get_model_weights(plain)
    weights = enum.IMAGENET1K_V1 if hasattr(enum, "IMAGENET1K_V1") else enum.DEFAULT  # V1: the field's start
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        found = dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"no ImageNet weights of {plain} ({str(error).splitlines()[0]}): place {weights.url} at {file}, "
            "or set MODEL.PRETRAINED to a local file or none"
        ) from None
    return {k: v for k, v in found.items() if not k.startswith(("fc.", "head.", "heads."))}
