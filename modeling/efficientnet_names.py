"""EfficientNet weights of the ``efficientnet_pytorch`` family under timm's names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
WIDENING = {  # a block that widens first; the others begin with the depthwise convolution
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3", "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand",
}  # fmt: skip
NARROW = {**WIDENING, "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def is_efficientnet(weights: Mapping[str, Tensor]) -> bool:
    """Whether names are those of ``efficientnet_pytorch``."""
    return "_conv_stem.weight" in weights and any(name.startswith("_blocks.") for name in weights)


def to_timm(weights: Mapping[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """Names of ``efficientnet_pytorch``, whose blocks are numbered through, to those of timm's network.

    Args:
        own: names in timm's network, whose blocks are numbered stage by stage.
    """
    places = {m[0] for name in own if (m := re.match(r"blocks\.\d+\.\d+", name))}
    blocks = sorted(places, key=lambda place: [int(k) for k in place.split(".")[1:]])
    found = {}
    for name, value in weights.items():
        if match := re.match(r"_blocks\.(\d+)\.(\w+)\.(.*)", name):
            number, part, rest = match.groups()
            widens = f"_blocks.{number}._expand_conv.weight" in weights
            inner = (WIDENING if widens else NARROW).get(part, part)
            place = blocks[int(number)] if int(number) < len(blocks) else f"_blocks.{number}"
            found[f"{place}.{inner}.{rest}"] = value
        else:
            part, _, rest = name.partition(".")
            found[f"{OUTSIDE.get(part, part)}.{rest}"] = value
    return found
