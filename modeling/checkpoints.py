"""Weight files of other projects: every container and prefix to the names that a backbone has.

Reading runs no code of the file: ``torch.load`` with ``weights_only``, and by name the harmless classes that published
files hold (``argparse.Namespace``, NumPy's arrays and scalars).
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossreid.modeling.errors import ModelError

CONTAINERS = ("teacher", "model", "state_dict", "model_state_dict", "net")
PREFIXES = (
    "module.",
    "backbone.",
    "base.",
    "resnet_conv.",
    "encoder_q.",
    "image_encoder.",
    "visual.",
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
    ): "its network has instance norm after layer1, layer2 and layer3: features differ from a plain ResNet's",
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
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None


def _allowed() -> list[Any]:
    """Classes without behaviour that published checkpoints hold."""
    scalar = np.float64(0).__reduce__()[0]
    array = np.zeros(1).__reduce__()[0]
    dtypes = {
        type(np.dtype(kind))
        for kind in ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1", "U1", "S1"]
    }
    plain = [argparse.Namespace, np.ndarray, np.dtype, *sorted(dtypes, key=str)]
    former = [(f, f"numpy.core.multiarray.{f.__name__}") for f in (scalar, array)]  # files of NumPy 1
    return [*plain, scalar, array, *former]


def load_file(path: str | Path) -> dict[str, Any]:
    """Read a weight file or checkpoint (.safetensors or anything of ``torch.save``) onto the CPU.

    Raises:
        ModelError: a missing, truncated or foreign file, or one that holds more than tensors and plain values.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ModelError(f"no checkpoint {path}")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    try:
        with torch.serialization.safe_globals(_allowed()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = "GLOBAL" in str(error) or "Unsupported" in str(error)
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        held = f" ({named[1]})" if named else ""
        why = f"it holds objects other than tensors{held} and is not loaded" if refused else "it is damaged"
        raise ModelError(
            f"{path} cannot be read: {why}; keep only its state_dict, or copy it again"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        if "TorchScript" in str(error):
            raise ModelError(
                f"{path} is a TorchScript archive: convert it once in a program you trust, "
                "torch.save(torch.jit.load(FILE).state_dict(), NEW), or take the .safetensors of the same model"
            ) from None
        raise ModelError(f"{path} is not a whole checkpoint ({first_line(error)})") from None
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds a {type(content).__name__}, not a state_dict")
    return dict(content)


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file as load
    except ModuleNotFoundError:
        raise ModelError(f"{path} needs the package safetensors: pip install safetensors") from None
    try:
        return dict(load(path, device="cpu"))
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is not a whole safetensors file ({first_line(error)})") from None


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its kind where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:120]


def contained(content: Mapping[str, Any], origin: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint: under teacher, model, state_dict, …, or bare; NumPy arrays become tensors.

    Raises:
        ModelError: it holds none.
    """
    for key in CONTAINERS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    found = {}
    for name, value in content.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = (
                torch.from_numpy(np.ascontiguousarray(value).copy())
                if value.ndim
                else torch.tensor(value.item())
            )
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            found[name] = value
    if not found:
        raise ModelError(f"{origin} holds no weights (looked under {', '.join(CONTAINERS)} and at the top)")
    return found


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
    _check_finite(weights, kept, origin)
    others = {new: tensors[name] for name, new in renamed.items() if new not in kept}
    return Weights(weights, kept, sorted(skipped), others, notes, _normalisation(tensors))


def _common_prefix(tensors: Mapping[str, Any]) -> str:
    """What stands before the backbone's names: the chain of known prefixes under which most tensors lie."""
    names = [name.removeprefix("module.") for name in tensors]
    chain = ""
    while True:
        inner = [n[len(chain) :] for n in names if n.startswith(chain)]
        found = [p for p in PREFIXES if any(n.startswith(p) for n in inner) and p != "conv."]
        known = any(
            re.match(r"(conv1|layer1|blocks|stages|features|patch_embed|transformer)\.", n) for n in inner
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


def _check_finite(weights: Mapping[str, torch.Tensor], names: Mapping[str, str], origin: str) -> None:
    bad = [k for k, v in weights.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if bad:
        raise ModelError(
            f"{origin}: {len(bad)} of the file's own weights hold NaN or infinity, first {names.get(bad[0], bad[0])}: "
            "the training that wrote it had diverged; take an earlier checkpoint"
        )


def _normalisation(
    tensors: Mapping[str, torch.Tensor],
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """fast-reid's pixel_mean and pixel_std (0..255), as RGB in 0..1."""
    named = {name.rpartition(".")[2]: value for name, value in tensors.items()}
    if "pixel_mean" not in named or "pixel_std" not in named:
        return None
    mean, std = (tuple(float(v) / 255 for v in named[k].flatten()) for k in ("pixel_mean", "pixel_std"))
    return (mean, std) if len(mean) == len(std) == 3 else None


def read_weights(path: str | Path) -> Weights:
    """The backbone's weights in a file of any known project.

    Raises:
        ModelError: a file that cannot be read, or holds no weights or broken ones.
    """
    found = interpret(contained(load_file(path), str(path)), str(path))
    return replace(found, tensors=joined_attention(found.tensors))


def read(path: str | Path) -> dict[str, torch.Tensor]:
    """The backbone's weights in a file by torchvision's, TransReID's, torchreid's or SOLIDER's names.

    Raises:
        ModelError: a file that cannot be read, or holds no weights or broken ones.
    """
    return read_weights(path).tensors
