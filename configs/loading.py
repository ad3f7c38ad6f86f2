"""Reads the configuration: defaults <- YAML (or the flat YAML of the seed) <- overrides, checked whole, frozen."""

from __future__ import annotations

import contextlib
import difflib
import os
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from crossreid.configs.checks import check
from crossreid.configs.defaults import _C
from crossreid.configs.errors import ConfigError
from crossreid.configs.flat import is_flat, translate
from crossreid.configs.methods import method_config, method_names
from crossreid.configs.schema import Section


def load(path: str | Path | None, overrides: list[str] | None = None) -> CfgNode:
    """Read, merge and check a configuration.

    Args:
        path: a YAML file in our sections or in the flat keys of the seed project; None for the defaults.
        overrides: ``["SOLVER.LR", "0.1", ...]``; values are read as YAML.

    Returns:
        The frozen tree.

    Raises:
        ConfigError: a missing or unreadable file, an unknown key (the nearest known one is named), a value of
            another type or out of range, or keys that contradict each other.
    """
    values = _read(Path(path)) if path is not None else {}
    values = translate(values) if is_flat(values) else values
    pairs = _pairs(overrides or [])
    schema = schema_of(_method(values, pairs))
    cfg = schema.tree()
    _merge(cfg, values, str(path))
    if path is not None and not cfg.NAME:
        cfg.NAME = _run_name(Path(path))
    for key, value in pairs:
        _merge(cfg, _nested(key, value), "the command line")
    if not cfg.NAME:
        cfg.NAME = "run"
    _finish(cfg, schema)
    return cfg


def schema_of(method: str) -> Section:
    """All keys: the general ones, a section for each method of the tree, and the section of a method from outside."""
    schema = Section()
    for name, value in _C.items.items():
        setattr(schema, name, value)
    for name in dict.fromkeys((*method_names(), method)):
        module = method_config(name)
        if hasattr(module, "SECTION"):
            setattr(schema, module.SECTION, module.KEYS)
    return schema


def _method(values: dict[str, Any], pairs: list[tuple[str, Any]]) -> str:
    """The method that a YAML and overrides name, before anything else of them is read."""
    named = [value for key, value in pairs if key == "METHOD"] or [values.get("METHOD", _C.METHOD.default)]
    return str(named[-1])


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
    pairs = _pairs(overrides or [])
    try:
        saved = CfgNode.load_cfg(text)
    except (yaml.YAMLError, ValueError, AttributeError, AssertionError) as error:
        raise ConfigError(f"{origin}'s config is damaged: {' '.join(str(error).split())[:120]}") from None
    schema = schema_of(_method(saved, pairs))
    cfg = schema.tree()
    for key in known_keys(saved):
        node: Any = saved
        for part in key.split("."):
            node = node[part]
        try:
            _merge(cfg, _nested(key, node), origin)
        except ConfigError:
            unknown.append(key)
    for key, value in pairs:
        _merge(cfg, _nested(key, value), "the command line")
    _finish(cfg, schema)
    return cfg, unknown


def _finish(cfg: CfgNode, schema: Section) -> None:
    cfg.OUTPUT_DIR = os.path.expanduser(cfg.OUTPUT_DIR)  # noqa: PTH111 - pathlib raises where ~name is nobody's
    check(cfg, schema.keys())
    cfg.freeze()


def _run_name(path: Path) -> str:
    return path.stem if path.parent.name in ("configs", "") else f"{path.parent.name}-{path.stem}"


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        near = sorted(str(p) for p in Path("configs").glob("**/*.yml"))
        hint = difflib.get_close_matches(str(path), near, n=1, cutoff=0.5) or near[:1]
        raise ConfigError(f"no config file {path}" + (f"; did you mean {hint[0]}?" if hint else ""))
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold keys and values, it holds a {type(values).__name__}")
    return values


def _pairs(overrides: list[str]) -> list[tuple[str, Any]]:
    if len(overrides) % 2:
        raise ConfigError(f"overrides come as KEY VALUE pairs, {overrides[-1]!r} has no partner")
    try:
        return [(k, yaml.safe_load(v)) for k, v in zip(overrides[::2], overrides[1::2])]
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"an override is not a YAML value: {' '.join(str(error).split())}") from None


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def known_keys(node: CfgNode, prefix: str = "") -> list[str]:
    """All leaf keys below ``node``, dotted."""
    keys: list[str] = []
    for name, value in node.items():
        keys += known_keys(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else [prefix + name]
    return keys


def _merge(
    node: CfgNode, values: dict[str, Any], origin: str, prefix: str = "", root: CfgNode | None = None
) -> None:
    root = node if root is None else root
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in node:
            raise ConfigError(f"unknown key {key} in {origin}{_nearest(key, known_keys(root))}")
        if isinstance(node[name], CfgNode):
            if not isinstance(value, dict):
                raise ConfigError(f"{key} in {origin} is a section, it cannot be {value!r}")
            _merge(node[name], value, origin, f"{key}.", root)
        else:
            node[name] = _cast(key, value, node[name], origin)


def _nearest(key: str, keys: list[str]) -> str:
    last = {k.rsplit(".", 1)[-1]: k for k in keys}
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.7)
    if not near:
        near = [last[m] for m in difflib.get_close_matches(key.rsplit(".", 1)[-1].upper(), list(last), n=1)]
    return f"; did you mean {near[0]}?" if near else "; configs/defaults.py lists every key"


def _cast(key: str, value: Any, default: Any, origin: str) -> Any:
    """The value in the default's type; only exact conversions (1 -> 1.0, "5e-4" -> 0.0005)."""
    wanted = type(default)
    if wanted is str and value is None:
        return ""
    if wanted is list and isinstance(value, (list, tuple)):
        kind = type(default[0]) if default else None
        items = list(value)
        if kind in (int, float):
            return [_cast(key, item, default[0], origin) for item in items]
        if all(isinstance(item, str) for item in items):
            return items
    if wanted is list and len(default) == 1 and isinstance(default[0], (int, float)):
        with contextlib.suppress(ConfigError):  # one number stands for a list of it
            return [_cast(key, value, default[0], origin)]
    if wanted is list and isinstance(value, str) and default and isinstance(default[0], str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if wanted is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    elif type(value) is wanted and wanted is not list:
        return value
    shown = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}
    what = shown.get(wanted.__name__, f"a list like {default}")
    raise ConfigError(f"{key} in {origin} must be {what}, got {value!r} ({type(value).__name__})")
