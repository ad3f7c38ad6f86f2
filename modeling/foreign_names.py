"""Names of weights in other projects' files to the names that our backbones have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from crossreid.modeling.errors import ModelError
from crossreid.modeling.interface import Normalisation

PREFIXES = (
    "module.",
    "backbone.",
    "base.",
    "resnet_conv.",
    "encoder_q.",
    "image_encoder.",
    "model.",
    "conv.",
)
OTHER_TOWERS = ("encoder_k.", "student.")
STAGES = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
NUMBERINGS = {  # positions in a Sequential of those six
    (0, 1, 4, 5, 6, 7): "",
    (0, 1, 3, 4, 5, 6): "its network has no ReLU after bn1: features differ from a plain ResNet's",
    (
        0,
        1,
        4,
        6,
        8,
        10,
    ): "its network has instance norm after layer1 to layer3: features differ from a plain ResNet's",
}
HEADS = re.compile(
    r"^(head\.|heads\.|classifier|bottleneck|b[12]\.|feat_bn|feat\.|bn_neck|"
    r"bnneck|gap\.|pool\.|idm\.|queue|queue_ptr|pixel_|jpm|text_encoder|prompt_learner|logit_scale|projector|"
    r"cv_embed|relative_position_index)"
)


@dataclass(frozen=True)
class Weights:
    """What a file holds for a backbone.

    Args:
        tensors: by the backbone's names.
        names: each of these -> its name in the file.
        skipped: names in the file of heads and other towers.
        others: the heads by their short names, for a backbone that has a layer of that name.
        notes: what a user should know.
        normalisation: mean and std of RGB in 0..1 that the file itself tells.
    """

    tensors: dict[str, torch.Tensor]
    names: dict[str, str]
    skipped: list[str]
    others: dict[str, torch.Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    normalisation: Normalisation | None = None


def interpret(tensors: Mapping[str, torch.Tensor], origin: str) -> Weights:
    """Names of a file to names of a backbone.

    Args:
        tensors: by the file's names.

    Raises:
        ModelError: a weight that is not finite.
    """
    prefix = _common_prefix(tensors)
    inner, skipped = {}, []
    for name in tensors:
        short = name.removeprefix("module.")
        if short.startswith(prefix) and not short.startswith(OTHER_TOWERS):
            inner[name] = short[len(prefix) :]
        else:
            skipped.append(name)
    renamed, notes = _renamed(inner)
    kept: dict[str, str] = {}
    osnet = any(n.startswith("conv2.0.conv1.conv.") for n in renamed.values())
    for name, new in renamed.items():
        head = HEADS.match(new) if not osnet else new.startswith("classifier")
        deep_fc = not osnet and new.startswith("fc.")
        if head or deep_fc:
            skipped.append(name)
        else:
            kept[new] = name
    weights = {new: tensors[name] for new, name in kept.items()}
    check_finite(weights, origin, kept)
    others = {new: tensors[name] for name, new in renamed.items() if new not in kept}
    return Weights(weights, kept, sorted(skipped), others, notes, _normalisation(tensors))


def _common_prefix(tensors: Mapping[str, Any]) -> str:
    """What stands before the backbone's names: the chain of known prefixes under which most tensors lie."""
    names = [name.removeprefix("module.") for name in tensors]
    chain = ""
    while True:
        inner = [n[len(chain) :] for n in names if n.startswith(chain)]
        if any(n.startswith("visual.") for n in inner):  # CLIP: beside it stands the text's transformer
            return f"{chain}visual."
        found = [p for p in PREFIXES if any(n.startswith(p) for n in inner) and p != "conv."]
        known = any(
            re.match(r"(conv1|layer1|_?blocks|stages|features|patch_embed|transformer)\.", n) for n in inner
        )
        if not found or known:
            return chain
        chain += max(found, key=lambda p: sum(n.startswith(p) for n in inner))


def _renamed(inner: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Sequential numbers and Hugging Face's CLIP names to the usual ones; names in the file -> new names."""
    if any(n.startswith("vision_model.") for n in inner.values()):
        return _from_hugging_face(inner), []
    found = {name: re.sub(r"^conv\.(conv1|bn1)\.", r"\1.", short) for name, short in inner.items()}
    first = [re.match(r"(\d+)\.", n) for n in found.values()]
    used = tuple(sorted({int(m[1]) for m in first if m}))
    numbering = (
        next((n for n in NUMBERINGS if set(n) <= set(used) and max(n) >= max(used) - 1), None)
        if used
        else None
    )
    if numbering is None:
        return found, []
    stages = dict(zip(map(str, numbering), STAGES))
    new = {}
    for name, short in found.items():
        number, _, rest = short.partition(".")
        new[name] = (
            f"{stages[number]}.{rest}" if number in stages else f"pool.{rest}" if number.isdigit() else short
        )
    return new, [NUMBERINGS[numbering]] if NUMBERINGS[numbering] else []


_HF = (
    (r"^vision_model\.embeddings\.class_embedding$", "class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "ln_pre."),
    (r"^vision_model\.post_layernorm\.", "ln_post."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.layer_norm([12])\.", r"transformer.resblocks.\1.ln_\2."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.mlp\.fc1\.", r"transformer.resblocks.\1.mlp.c_fc."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.mlp\.fc2\.", r"transformer.resblocks.\1.mlp.c_proj."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.", r"transformer.resblocks.\1.attn."),
)


def _from_hugging_face(inner: Mapping[str, str]) -> dict[str, str]:
    new = {}
    for name, short in inner.items():
        if short.startswith("text_"):
            short = f"text_encoder.{short}"
        for pattern, replacement in _HF:
            short = re.sub(pattern, replacement, short)
        new[name] = short
    return new


def joined_attention(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Hugging Face's q_proj, k_proj, v_proj joined to OpenAI's in_proj."""
    found = {k: v for k, v in weights.items() if not re.search(r"attn\.[qkv]_proj\.", k)}
    for name in weights:
        if (match := re.match(r"(.*attn)\.q_proj\.(weight|bias)$", name)) is not None:
            stem, kind = match[1], match[2]
            found[f"{stem}.in_proj_{kind}"] = torch.cat([weights[f"{stem}.{p}_proj.{kind}"] for p in "qkv"])
    return found


def joined_name(name: str) -> str:
    """What ``joined_attention`` makes of a weight's name."""
    return re.sub(r"attn\.[qkv]_proj\.(weight|bias)$", r"attn.in_proj_\1", name)


def check_finite(
    weights: Mapping[str, torch.Tensor], origin: str, names: Mapping[str, str] | None = None
) -> None:
    """Raise ModelError if a weight holds NaN or infinity; ``names``: its name in the file."""
    bad = [k for k, v in weights.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if bad:
        first = (names or {}).get(bad[0], bad[0])
        raise ModelError(
            f"{origin}: {len(bad)} of the file's own weights hold NaN or infinity, first {first}: "
            "the training that wrote it had diverged; take an earlier checkpoint"
        )


def _normalisation(
    tensors: Mapping[str, torch.Tensor],
) -> Normalisation | None:
    """fast-reid's pixel_mean and pixel_std (0..255), as RGB in 0..1."""
    named = {name.rpartition(".")[2]: value for name, value in tensors.items()}
    if "pixel_mean" not in named or "pixel_std" not in named:
        return None
    mean, std = (tuple(float(v) / 255 for v in named[k].flatten()) for k in ("pixel_mean", "pixel_std"))
    return (mean, std) if len(mean) == len(std) == 3 else None
