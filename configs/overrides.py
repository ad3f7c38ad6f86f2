"""Overrides of a command line: ``KEY VALUE``, ``KEY=VALUE``, ``--KEY=VALUE``; values are YAML, paths literal."""

from __future__ import annotations

import re
from typing import Any

from crossreid.configs.defaults import _C
from crossreid.configs.errors import ConfigError
from crossreid.configs.methods import schema_of
from crossreid.configs.reading import parse, shown
from crossreid.configs.schema import Key

_ASSIGNED = re.compile(r"(?:--)?([^\W\d]\w*(?:\.\w+)*)=(.*)", re.DOTALL)


def pairs(overrides: list[str]) -> list[tuple[str, Any]]:
    """Keys and values in their order.

    Raises:
        ConfigError: a key without a value, a value that is not YAML.
    """
    found, left = [], list(overrides)
    keys = schema_of(_C.METHOD.default).keys() if left else {}
    while left:
        key = left.pop(0)
        if match := _ASSIGNED.fullmatch(key):
            key, text = match[1], match[2]
        elif left:
            text = left.pop(0)
        else:
            raise ConfigError(f"overrides come as KEY VALUE pairs or KEY=VALUE, {shown(key)} has no partner")
        found.append(
            (key, text if _is_path(keys.get(key.upper()), text) else parse(text, f"the override {key[:80]}"))
        )
    return found


def _is_path(key: Key | None, text: str) -> bool:
    """Whether a value is a path that YAML could misread (``a #b``, ``a: b``, ``~``): one without quotes of YAML."""
    return key is not None and bool(key.kind) and isinstance(key.default, str) and text[:1] not in "\"'"


def set_apart(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Arguments of a command without those of the form ``--KEY=VALUE`` (key in capitals), and these alone."""
    mine = [a for a in arguments if a.startswith("--") and (m := _ASSIGNED.fullmatch(a)) and m[1].isupper()]
    return [a for a in arguments if a not in mine], mine
