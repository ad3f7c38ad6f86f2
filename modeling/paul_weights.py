"""Checkpoints of PAUL's program (QizeYang/PAUL) under the names of ``PatchNet``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

PARTS = (("fc_list", "classifier"), ("embedding", "embedding"))
NORM = ("weight", "bias", "running_mean", "running_var")
GENERATOR = {
    "localization.0.weight": "trunk.0.weight",
    **{f"localization.1.{name}": f"trunk.1.{name}" for name in NORM},
    **{f"fc_loc.0.{name}": f"trunk.6.{name}" for name in ("weight", "bias")},
    **{f"fc_loc.2.{name}": f"last.{name}" for name in ("weight", "bias")},
}


def is_paul(weights: Mapping[str, Tensor]) -> bool:
    """Whether a state_dict has the names of PAUL's program."""
    return "new.down.0.0.weight" in weights


def from_paul(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """PAUL's weights under our names.

    Its convolutions before a batch norm have a bias, ours have none: the norm's running mean takes it up, which
    leaves every feature as it is.

    Args:
        weights: names without ``module.``: ``backbone.*``, ``new.down.k.*``, ``patch_proposal.*``, and of stage 1
            ``new.fc_list.k.*`` and ``new.embedding.k.*``.
    """
    patches = sum(name.startswith("new.down.") and name.endswith(".0.weight") for name in weights)

    def each(name: str) -> list[Tensor]:
        return [weights[name.format(k)] for k in range(patches)]

    found = {name: value for name, value in weights.items() if name.startswith("backbone.")}
    found["reduction.weight"] = torch.stack(each("new.down.{}.0.weight")).flatten(2)  # [K, D, C]
    found |= {f"norm.{name}": torch.cat(each("new.down.{}.1." + name)) for name in NORM}
    found["norm.running_mean"] = found["norm.running_mean"] - torch.cat(each("new.down.{}.0.bias"))
    for theirs, ours in PARTS:
        if f"new.{theirs}.0.weight" in weights:
            found |= {f"{ours}.{n}": torch.stack(each(f"new.{theirs}.{{}}.{n}")) for n in ("weight", "bias")}
    found |= {f"generator.{ours}": weights[f"patch_proposal.{theirs}"] for theirs, ours in GENERATOR.items()}
    shift = weights["patch_proposal.localization.0.bias"]
    found["generator.trunk.1.running_mean"] = found["generator.trunk.1.running_mean"] - shift
    counter = torch.zeros((), dtype=torch.long)
    for norm, theirs in (("norm", "new.down.0.1"), ("generator.trunk.1", "patch_proposal.localization.1")):
        found[f"{norm}.num_batches_tracked"] = weights.get(f"{theirs}.num_batches_tracked", counter)
    return found
