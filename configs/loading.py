"""Reads the configuration: defaults <- YAML (or the flat YAML of the seed) <- overrides, checked whole, frozen."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from crossreid.configs.checks import check
from crossreid.configs.defaults import _C
from crossreid.configs.errors import ConfigError
from crossreid.configs.flat import is_flat, translate
from crossreid.configs.methods import schema_of
from crossreid.configs.overrides import pairs
from crossreid.configs.paths import expand, expand_all
from crossreid.configs.reading import FAULTS, read_yaml, shown
from crossreid.configs.schema import Key, Section
from crossreid.configs.values import cast

SWEEP = "SWEEP"  # the section of a YAML that says what a sweep varies


def load(path: str | Path | None, overrides: list[str] | None = None) -> CfgNode:
    """Read, merge and check a configuration.

    Args:
        path: a YAML file in our sections or in the flat keys of the seed project; None for the defaults.
        overrides: ``["SOLVER.LR", "0.1", "SOLVER.EPOCHS=5", ...]``; values are read as YAML.

    Returns:
        The frozen tree.

    Raises:
        ConfigError: a missing or unreadable file, an unknown key (the nearest known one is named), a value of
            another type or out of range, or keys that contradict each other.
    """
    values = read_yaml(Path(path)) if path is not None else {}
    values.pop(SWEEP, None)  # read by the command of that name alone
    values = translate(values) if is_flat(values, _C.items) else values
    given = pairs(overrides or [])
    schema = schema_of(_method(values, given))
    cfg = schema.tree()
    keys = schema.keys()
    _merge(cfg, values, str(path), keys)
    if path is not None and cfg.FIRST_STAGE:
        cfg.FIRST_STAGE = str(Path(path).parent / expand("FIRST_STAGE", cfg.FIRST_STAGE))
    if path is not None and not cfg.NAME:
        cfg.NAME = _run_name(Path(path))
    for key, value in given:
        _merge(cfg, {key: value}, "the command line", keys)
    if not cfg.NAME:
        cfg.NAME = "run"
    _finish(cfg, schema)
    return cfg


def _method(values: dict[str, Any], given: list[tuple[str, Any]]) -> str:
    """The method that a YAML and overrides name, before anything else of them is read."""
    named = [value for key, value in given if key.upper() == "METHOD"] or [
        values.get("METHOD", _C.METHOD.default)
    ]
    method = named[-1]
    return method if isinstance(method, str) else _C.METHOD.default


def restore(
    text: str, overrides: list[str] | None = None, origin: str = "the checkpoint"
) -> tuple[CfgNode, list[str]]:
    """The configuration that a checkpoint holds, with overrides.

    Args:
        text: its YAML, as dumped.
        origin: what holds it, for errors.

    Returns:
        The frozen tree, and the keys of the text that this version does not know (left out).
    """
    unknown: list[str] = []
    given = pairs(overrides or [])
    try:
        saved = CfgNode.load_cfg(text)
    except (*FAULTS, AttributeError, AssertionError) as error:
        raise ConfigError(f"{origin}'s config is damaged: {' '.join(str(error).split())[:120]}") from None
    schema = schema_of(_method(saved, given))
    cfg = schema.tree()
    for key, value in values_of(saved).items():
        try:
            _merge(cfg, {key: value}, origin, schema.keys())
        except ConfigError:
            unknown.append(key)
    for key, value in given:
        _merge(cfg, {key: value}, "the command line", schema.keys())
    _finish(cfg, schema)
    return cfg, unknown


def _finish(cfg: CfgNode, schema: Section) -> None:
    keys = schema.keys()
    expand_all(cfg, keys)
    check(cfg, keys)
    cfg.freeze()


def _run_name(path: Path) -> str:
    return path.stem if path.parent.name in ("configs", "") else f"{path.parent.name}-{path.stem}"


def values_of(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    """The value of every leaf key below ``node``, by its dotted name."""
    found: dict[str, Any] = {}
    for name, value in node.items():
        found |= (
            values_of(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else {prefix + name: value}
        )
    return found


def _merge(
    node: CfgNode, values: dict[Any, Any], origin: str, keys: Mapping[str, Key], prefix: str = ""
) -> None:
    """Put values into the tree; a section or key in other letters (solver.lr, SOLVER.LR in one) is understood."""
    for written, value in values.items():
        name = str(written)
        if "." in name and name.partition(".")[0]:
            head, _, rest = name.partition(".")
            name, value = head, {rest: value}
        name = name if name in node else name.upper()
        key = f"{prefix}{name}"
        if name not in node:
            raise ConfigError(
                f"unknown key {f'{prefix}{written}'[:120]} in {origin}{_nearest(key[:120], list(keys))}"
            )
        if isinstance(node[name], CfgNode):
            if not isinstance(value, dict):
                raise ConfigError(f"{key} in {origin} is a section, it cannot be {shown(value)}")
            _merge(node[name], value, origin, keys, f"{key}.")
        else:
            if isinstance(value, dict):
                below = f"{key}.{next(iter(value), '')}"[:120]
                raise ConfigError(f"unknown key {below} in {origin}: {key} is a value, it holds no keys")
            node[name] = cast(key, value, keys[key], origin)


def _nearest(key: str, keys: list[str]) -> str:
    last = {k.rsplit(".", 1)[-1]: k for k in keys}
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.7)
    if not near:
        near = [last[m] for m in difflib.get_close_matches(key.rsplit(".", 1)[-1].upper(), list(last), n=1)]
    return f"; did you mean {near[0]}?" if near else "; configs/defaults.py lists every key"
