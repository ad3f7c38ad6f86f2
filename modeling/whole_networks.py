"""Whole networks of other projects: backbone, batch-norm neck and part features under the names of ``StrongNet``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossreid.modeling import clip, osnet, swin, torchvision_nets, vit
from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.checkpoints import contained, load_file
from crossreid.modeling.errors import ModelError
from crossreid.modeling.families import ICS, resnets
from crossreid.modeling.foreign_names import Weights, check_finite, joined_name
from crossreid.modeling.interface import Normalisation
from crossreid.modeling.weights import known_normalisation

NECK = ("weight", "bias", "running_mean", "running_var")
NECKS = ("bottleneck.", "feat_bn.", "bnneck.", "bn_neck.", "heads.bottleneck.0.", "heads.bnneck.", "neck.")
EXPONENT = re.compile(r"(^|\.)(gap|pool|pool_layer|gem|global_pool|heads\.pool)\.p$")
JIGSAW = {
    "b1.0.": "backbone.blocks.{last}.",
    "b1.1.": "backbone.norm.",
    "b2.0.": "parts.block.",
    "b2.1.": "parts.norm.",
}
POSITIONS = {"pos_embed", "positional_embedding"}  # of any grid
FIXED = {"convnext_": 2, "swin_": 2, "solider_": 2, "osnet_": 1, "vit_": 1, "clip_": 1}  # last strides
MARKS: dict[str, Callable[[], list[str]]] = {  # a name of the family's files -> its networks
    "layer1.0.bn1.IN.weight": lambda: [f"{name}_ibn_a" for name in resnets()],
    "layer1.0.conv1.weight": resnets,
    "conv2.0.conv1.conv.weight": lambda: list(osnet.NAMES),
    "cls_token": lambda: [*vit.SIZES, *(f"{name}{ICS}" for name in ("vit_tiny", "vit_small", "vit_base"))],
    "patch_embed.projection.weight": lambda: list(swin.SIZES),
    "class_embedding": lambda: list(clip.SIZES),
    "features.0.0.weight": lambda: sorted(torchvision_nets.names(), key=lambda n: "mobilenet" not in n),
}


@dataclass(frozen=True)
class WholeNetwork:
    """What a file holds for ``StrongNet``, and the keys that it needs.

    Args:
        state: weights of an evaluation network.
        names: name in the file -> name in ``state``.
        skipped: names in the file that were left out.
        keys: of the config, as the file tells them.
        normalisation: mean and std of RGB in 0..1 that it was trained with, as far as known.
        notes: what a user should know.
    """

    state: dict[str, Tensor]
    names: dict[str, str]
    skipped: list[str]
    keys: dict[str, Any]
    normalisation: Normalisation
    notes: list[str]


def backbone_of(weights: Weights) -> str:
    """The first backbone by name that has exactly these tensors; empty: none."""
    candidates = next((found() for mark, found in MARKS.items() if mark in weights.tensors), [])
    known = replace(weights, tensors={k: v for k, v in weights.tensors.items() if k not in POSITIONS})
    for name in candidates:
        with torch.device("meta"):
            backbone = build_backbone(name, last_stride=_last_stride(name, neck=True))
        if set(_misfit(backbone, _fitted(backbone, known))) <= POSITIONS:
            return name
    return ""


def whole_network(origin: Path, weights: Weights, name: str, given: Mapping[str, Any]) -> WholeNetwork:
    """A file's network as ``StrongNet`` has it.

    Without a batch-norm neck the pooled features are compared, as the files' programs do; so are those of TransReID.

    Args:
        weights: of the file.
        name: of the backbone.
        given: size, last_stride, patch_stride of the config; 0: as the file has it.

    Raises:
        ModelError: weights that differ from the backbone's, or that are not finite.
    """
    tensors = contained(load_file(origin), str(origin))
    short = {old.removeprefix("module."): old for old in tensors}
    neck = _neck(short, "", "neck")
    stride = given["last_stride"] or _last_stride(name, neck=bool(neck))
    steps = given["patch_stride"] or _patch_stride(name, weights, given["size"])
    backbone = build_backbone(name, last_stride=stride, size=given["size"], patch_stride=steps)
    parts = _parts(short, len(backbone.blocks)) if hasattr(backbone, "jigsaw") else {}
    heads = {**neck, **parts, **_exponent(short, tensors)}
    necks = sorted({"neck", *(new.rpartition(".")[0] for new in parts.values() if "part_necks" in new)})
    state = _backbone_state(backbone, name, weights, str(origin))
    for each in necks:  # counts of batches that old files lack; the neck itself where a file has none
        state |= _idle_neck(each, backbone.out_channels)
    state |= {new: tensors[old].reshape(1) if new == "pool.p" else tensors[old] for old, new in heads.items()}
    check_finite({new: state[new] for new in heads.values()}, str(origin), {v: k for k, v in heads.items()})
    joined = {old: f"backbone.{joined_name(new)}" for new, old in weights.names.items()}
    left = {old for old, new in joined.items() if new not in state or new in parts.values()}
    lacks = {"camera embedding": "sie_embed" in weights.tensors or "cv_embed" in short}
    lacks["projected feature"] = any(name.startswith("bottleneck_proj.") for name in short)  # CLIP-ReID
    notes = [f"scores will differ without its {what}" for what, there in lacks.items() if there]
    return WholeNetwork(
        state,
        {old: new for old, new in joined.items() if old not in left} | heads,
        sorted({*weights.skipped, *left} - set(heads)),
        {
            "MODEL.LAST_STRIDE": stride,
            "MODEL.PATCH_STRIDE": steps,
            "MODEL.POOLING": "gem" if "pool.p" in state else "avg",
            "SUPERVISED.FEATURE": "pooled" if not neck or hasattr(backbone, "grid") else "neck",
            "SUPERVISED.PARTS": len(necks) - 1,
        },
        known_normalisation(str(origin)) or weights.normalisation or backbone.normalisation,
        [*weights.notes, *notes],
    )


def _backbone_state(backbone: Any, name: str, weights: Weights, origin: str) -> dict[str, Tensor]:
    found, own = _fitted(backbone, weights), backbone.state_dict()
    if wrong := _misfit(backbone, found):
        raise ModelError(
            f"{origin} holds no whole {name}: {len(wrong)} of its weights differ, first {', '.join(wrong[:3])}; name "
            "the backbone of the file with MODEL.BACKBONE"
        )
    return {f"backbone.{k}": found.get(k, value) for k, value in own.items()}


def _last_stride(name: str, *, neck: bool) -> int:
    """Of families that allow one alone; else 1 with a neck, as in re-ID, and 2 without, as torchreid has it."""
    fixed = next((stride for prefix, stride in FIXED.items() if name.startswith(prefix)), 0)
    return fixed or (1 if neck else 2)


def _patch_stride(name: str, weights: Weights, size: tuple[int, int]) -> int:
    """The pixels between patches with which images of this size give the file's positions; 0: the patch's own."""
    positions = weights.tensors.get("pos_embed")
    if positions is None or positions.dim() != 3 or not name.startswith("vit_") or name.endswith(ICS):
        return 0
    patch = vit.SIZES[name][3]
    steps = (s for s in range(patch, 7, -1) if _patches(size, patch, s) == positions.shape[1] - 1)
    step = next(steps, patch)
    return 0 if step == patch else step


def _patches(size: tuple[int, int], patch: int, step: int) -> int:
    return ((size[0] - patch) // step + 1) * ((size[1] - patch) // step + 1)


def _fitted(backbone: Any, weights: Weights) -> dict[str, Tensor]:
    found = backbone.fitted(weights.tensors) if hasattr(backbone, "fitted") else weights.tensors
    return {**weights.others, **found}


def _misfit(backbone: Any, found: Mapping[str, Tensor]) -> list[str]:
    """Names of the backbone's weights that differ or are missing; old files lack the counts of batch norms."""
    own = {k: v for k, v in backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    return [k for k, v in own.items() if k not in found or found[k].shape != v.shape]


def _neck(short: Mapping[str, str], suffix: str, ours: str) -> dict[str, str]:
    """Name in the file -> ours, of a whole batch-norm neck."""
    for prefix in NECKS:
        stem = f"{prefix[:-1]}{suffix}."
        if all(f"{stem}{kind}" in short for kind in NECK):
            kinds = [*NECK, *(["num_batches_tracked"] if f"{stem}num_batches_tracked" in short else [])]
            return {short[f"{stem}{kind}"]: f"{ours}.{kind}" for kind in kinds}
    return {}


def _parts(short: Mapping[str, str], depth: int) -> dict[str, str]:
    """TransReID's jigsaw branches: the whole image's own last block, the parts' block and their necks."""
    if "b2.0.norm1.weight" not in short:
        return {}
    found: dict[str, str] = {}
    for theirs, ours in JIGSAW.items():
        stem = ours.format(last=depth - 1)
        found |= {old: stem + name[len(theirs) :] for name, old in short.items() if name.startswith(theirs)}
    for k in range(16):
        found |= _neck(short, f"_{k + 1}", f"part_necks.{k}")
    return found


def _exponent(short: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The exponent of a learnt GeM."""
    found = [old for name, old in short.items() if EXPONENT.search(name) and tensors[old].numel() == 1]
    return {found[0]: "pool.p"} if len(found) == 1 else {}


def _idle_neck(name: str, width: int) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for key, value in torch.nn.BatchNorm1d(width).state_dict().items()}
