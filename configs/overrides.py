"""Overrides of a command line: ``KEY VALUE``, ``KEY=VALUE`` and ``--KEY=VALUE``, values read as YAML."""

from __future__ import annotations

import re
from typing import Any

from crossreid.configs.errors import ConfigError
from crossreid.configs.reading import parse, shown

_ASSIGNED = re.compile(r"(?:--)?([^\W\d]\w*(?:\.\w+)*)=(.*)", re.DOTALL)


def pairs(overrides: list[str]) -> list[tuple[str, Any]]:
    """Keys and values in their order.

    Raises:
        ConfigError: a key without a value, a value that is not YAML.
    """
    found, left = [], list(overrides)
    while left:
        key = left.pop(0)
        if match := _ASSIGNED.fullmatch(key):
            key, text = match[1], match[2]
        elif left:
            text = left.pop(0)
        else:
            raise ConfigError(f"overrides come as KEY VALUE pairs or KEY=VALUE, {shown(key)} has no partner")
        found.append((key, parse(text, f"the override {key[:80]}")))
    return found


def set_apart(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Arguments of a command without those of the form ``--KEY=VALUE`` (key in capitals), and these alone."""
    mine = [a for a in arguments if a.startswith("--") and (m := _ASSIGNED.fullmatch(a)) and m[1].isupper()]
    return [a for a in arguments if a not in mine], mine
