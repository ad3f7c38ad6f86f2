"""Whether saved state fits the objects of a run: compared before anything is loaded, never cast or broadcast."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

FILLED_IN = (
    "maximize", "foreach", "capturable", "differentiable", "fused", "amsgrad", "decoupled_weight_decay",
)  # fmt: skip
KINDS = {dict: "a mapping", list: "a list", tuple: "a tuple", type(None): "nothing"}


def misfit(own: Any, saved: Any, where: str = "") -> str:
    """The first place where saved values are of another kind than this run's, empty if all fit.

    Args:
        own: what the run's object would save.
        saved: what the checkpoint holds.
        where: key of both.
    """
    if isinstance(own, torch.Tensor):
        return tensor_misfit(own.dtype, own.shape, saved, where)
    if isinstance(own, Mapping):
        if not isinstance(saved, Mapping):
            return f"{where} is {kind(saved)}, not a mapping"
        below = f"{where}." if where else ""
        missing = next((f"{below}{key} is missing" for key in own if key not in saved), "")
        return missing or _first(misfit(own[key], saved[key], f"{below}{key}") for key in own)
    if isinstance(own, (list, tuple)):
        if not isinstance(saved, (list, tuple)):
            return f"{where} is {kind(saved)}, not a list"
        if len(own) != len(saved):
            return f"{where} has {len(saved)} entries, not {len(own)}"
        return _first(misfit(a, b, f"{where}.{i}") for i, (a, b) in enumerate(zip(own, saved)))
    if isinstance(own, float) and isinstance(saved, (int, float)) and not isinstance(saved, bool):
        return "" if math.isfinite(saved) else f"{where} is {saved}"
    if type(own) is not type(saved):
        return f"{where} is {kind(saved)}, not {kind(own)}"
    return ""


def tensor_misfit(dtype: torch.dtype, shape: torch.Size, saved: Any, where: str) -> str:
    """How a saved value differs from a tensor of a type and a shape, empty if it does not."""
    if not isinstance(saved, torch.Tensor) or saved.layout != torch.strided:
        return f"{where} is {kind(saved)}, not a tensor"
    if (saved.dtype, saved.shape) == (dtype, shape):
        return ""
    return f"{where} is {described(saved.dtype, saved.shape)}, not {described(dtype, shape)}"


def described(dtype: torch.dtype, shape: torch.Size) -> str:
    """float32 64x3x7x7."""
    return f"{str(dtype).removeprefix('torch.')} {'x'.join(map(str, shape)) or 'scalar'}"


def kind(value: Any) -> str:
    """What a value is, for a message."""
    return KINDS.get(type(value)) or f"{type(value).__name__} {str(value)[:40]!r}"


def optimizer_misfit(optimizer: Optimizer, saved: Any) -> str:
    """The first place where an optimizer's saved state does not fit its parameters, empty if all does."""
    if not isinstance(saved, Mapping) or not isinstance(saved.get("state"), Mapping):
        return "state is missing"
    groups = [_essential(group) for group in optimizer.state_dict()["param_groups"]]
    if found := misfit(groups, saved.get("param_groups"), "param_groups"):
        return found
    if wrong := [
        own for own, group in zip(groups, saved["param_groups"]) if own["params"] != group["params"]
    ]:
        return f"param_groups holds other parameters than {wrong[0]['params'][:3]} …"
    if refused := _first(_refused(optimizer, group) for group in saved["param_groups"]):
        return f"param_groups: {refused}"
    names = _moments(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, entry in saved["state"].items():
        where = f"state.{index}"
        if type(index) is not int or not 0 <= index < len(parameters):
            return f"{where} is of no parameter"
        if not isinstance(entry, Mapping) or set(entry) != names:
            return f"{where} does not hold {', '.join(sorted(names))}"
        for name, value in entry.items():
            like = torch.empty((), dtype=torch.float32) if name == "step" else parameters[index]
            if value is None and name == "momentum_buffer":
                continue
            if found := tensor_misfit(like.dtype, like.shape, value, f"{where}.{name}"):
                return found
    return ""


def _refused(optimizer: Optimizer, group: Mapping[str, Any]) -> str:
    """What the optimizer's own constructor says of a group's values, nothing if they are in range."""
    values = {key: group[key] for key in optimizer.defaults if key not in FILLED_IN}
    try:
        type(optimizer)([torch.zeros(1)], **values)
    except (ValueError, TypeError) as error:
        return str(error)[:200]
    return ""


def own_options(optimizer: Optimizer, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Saved state with the options of torch's kernels as this run has them, and no others."""
    groups = [
        {key: value if key in FILLED_IN else before[key] for key, value in group.items()}
        for group, before in zip(optimizer.state_dict()["param_groups"], saved["param_groups"])
    ]
    return {"state": saved["state"], "param_groups": groups}


def _essential(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group without what torch fills in itself, which differs between its versions."""
    return {key: value for key, value in group.items() if key not in FILLED_IN}


def _moments(optimizer: Optimizer) -> set[str]:
    if isinstance(optimizer, SGD):
        return {"momentum_buffer"}
    assert isinstance(optimizer, (Adam, AdamW)), "others are not built here"
    return {"step", "exp_avg", "exp_avg_sq"}


def scheduler_misfit(own: Mapping[str, Any], saved: Any) -> str:
    """The first place where a schedule's saved state does not fit, empty if all does."""
    needed = ("last_epoch", "base_lrs", "_last_lr", "_step_count")
    there = saved if isinstance(saved, Mapping) else ()
    if found := misfit({key: value for key, value in own.items() if key in needed or key in there}, saved):
        return found
    counts = {key: saved[key] for key in ("last_epoch", "_step_count")}
    return _first(f"{key} is {kind(count)}" for key, count in counts.items() if not 0 <= count <= 10**9)


def history_misfit(saved: Any) -> str:
    """The first place where a saved ``EvaluationHistory`` is malformed, empty where it is whole."""
    if not isinstance(saved, Mapping):
        return f"it is {kind(saved)}, not a mapping"
    if found := misfit({"best": 0.0, "history": []}, {**saved, "history": []}):
        return found
    if not isinstance(saved.get("history"), list):
        return f"history is {kind(saved.get('history'))}, not a list"
    for i, entry in enumerate(saved["history"]):
        if found := misfit({"epoch": 0, "title": ""}, entry, f"history.{i}"):
            return found
        rest = {key: value for key, value in entry.items() if key not in ("epoch", "title")}
        if wrong := [key for key, value in rest.items() if not _number(value)]:
            return f"history.{i}.{wrong[0]} is {kind(rest[wrong[0]])}, not a number"
    selected, clusters = saved.get("selected", {}), saved.get("clusters")
    if not isinstance(selected, Mapping) or not all(map(_number, selected.values())):
        return f"selected is {kind(selected)}, not numbers by name"
    if clusters is not None and not (
        isinstance(clusters, torch.Tensor) and clusters.dtype == torch.int64 and clusters.dim() == 1
    ):
        return "clusters is no int64 tensor [N]"
    return ""


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _first(found: Iterable[str]) -> str:
    return next((text for text in found if text), "")
