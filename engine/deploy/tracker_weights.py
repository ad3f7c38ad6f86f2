"""Weights under the names that torchreid and boxmot use, for their ResNet-50 and OSNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crossreid.engine.deploy.embedder import Embedder
from crossreid.engine.errors import InputError


def write_weights(embedder: Embedder, path: Path) -> dict[str, Any]:
    """Write the backbone, and whatever neck it has, as safetensors; returns what to say of it.

    torchreid's ``resnet50`` and boxmot's read ``conv1`` … ``layer4``, their ``osnet_*`` ``conv1`` … ``conv5``:
    the names of our backbones inside ``backbone.``. They return pooled features; our neck, an affine map a
    dimension, is stored as ``neck.*`` and skipped by them.

    Raises:
        InputError: a network without such a backbone.
    """
    from safetensors.torch import save_file

    name = str(embedder.cfg.MODEL.BACKBONE).rpartition(".")[2]
    known = name in ("resnet50", "resnet50_ibn_a", "resnet18", "resnet34", "resnet101") or "osnet" in name
    weights = {k: v.detach().cpu() for k, v in embedder.network.extractor.state_dict().items()}
    inside = {k.removeprefix("backbone."): v for k, v in weights.items() if k.startswith("backbone.")}
    if not known or not inside:
        raise InputError(
            f"--format safetensors: trackers know ResNets and OSNet, this is METHOD {embedder.cfg.METHOD} with "
            f"MODEL.BACKBONE {embedder.cfg.MODEL.BACKBONE}: export it as onnx"
        )
    neck = {k: v for k, v in weights.items() if not k.startswith("backbone.")}
    everything = {k: v.contiguous().clone() for k, v in {**inside, **neck}.items()}
    save_file(everything, str(path), {"format": "pt", "digest": embedder.digest, "architecture": name})
    return {
        "architecture": name,
        "layout": "torchreid/boxmot",
        "weights": len(everything),
        "note": f"pooled features before the neck; last stride {embedder.cfg.MODEL.LAST_STRIDE}",
    }
