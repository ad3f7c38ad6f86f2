"""Weight files in the layout of another project."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from crossreid.modeling.checkpoints import read_weights
from crossreid.modeling.errors import ModelError
from crossreid.modeling.foreign_names import joined_name

LAYOUTS = ("crossreid", "torchvision", "torchreid", "fastreid", "safetensors")
CONTAINERS = {"crossreid": "model", "torchreid": "state_dict", "fastreid": "model"}
PREFIXES = {"crossreid": "backbone.", "torchreid": "module.", "fastreid": "backbone."}


@dataclass(frozen=True)
class Converted:
    """What a conversion did.

    Args:
        names: name in the old file -> name in the new one; several old ones may be joined in one new.
        skipped: names in the old file that were left out.
        notes: what a user should know.
    """

    names: dict[str, str]
    skipped: list[str]
    notes: list[str]


def check_output(out: Path, layout: str) -> None:
    """Refuse a file name that the layout does not have, or a file that would be overwritten.

    Raises:
        ModelError: either.
    """
    if layout == "safetensors" and out.suffix != ".safetensors":
        raise ModelError(f"{out}: a file of --to safetensors ends in .safetensors")
    if layout != "safetensors" and out.suffix == ".safetensors":
        raise ModelError(f"{out} ends in .safetensors, which --to {layout} does not write: name it .pth")
    if out.exists():
        raise ModelError(f"{out} is there already: remove it or name another file")


def convert(origin: Path, out: Path, layout: str) -> Converted:
    """Write the backbone's weights of a file of any known project in another project's layout.

    Args:
        layout: crossreid (a checkpoint for ``MODEL.PRETRAINED``), torchvision (bare names), torchreid (``state_dict``
            with ``module.``), fastreid (``model`` with ``backbone.``), safetensors (bare names).

    Raises:
        ModelError: a file that cannot be read or written, names that the layout has not, or a file that would be
            overwritten.
    """
    check_output(out, layout)
    weights = read_weights(origin)
    prefix = PREFIXES.get(layout, "")
    if layout == "torchreid" and any(name.startswith("blocks.") for name in weights.tensors):
        raise ModelError(f"{origin} holds a ViT, which torchreid has not: choose another --to")
    tensors = {f"{prefix}{new}": value.contiguous() for new, value in weights.tensors.items()}
    _write(tensors, out, layout)
    names = {old: f"{prefix}{joined_name(new)}" for new, old in weights.names.items()}
    return Converted(names, weights.skipped, weights.notes)


def _write(tensors: Mapping[str, Tensor], out: Path, layout: str) -> None:
    """To a temporary name first, so that no half-written file is left."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        if layout == "safetensors":
            from safetensors.torch import save_file

            save_file({k: v.clone() for k, v in tensors.items()}, str(temporary), {"format": "pt"})
        else:
            container = CONTAINERS.get(layout)
            torch.save({container: dict(tensors)} if container else dict(tensors), temporary)
        temporary.replace(out)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise ModelError(f"cannot write {out} ({error})") from None
