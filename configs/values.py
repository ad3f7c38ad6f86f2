"""From what YAML gives to the type of a key's default; only exact conversions."""

from __future__ import annotations

import ast
import contextlib
import datetime
from typing import Any

import yaml

from crossreid.configs.errors import ConfigError
from crossreid.configs.reading import shown
from crossreid.configs.schema import Key

WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def cast(key: str, value: Any, known: Key, origin: str) -> Any:
    """The value in the type of a key's default: 1 -> 1.0, "5e-4" -> 0.0005, "(40, 60)" -> [40, 60], off -> "off".

    Raises:
        ConfigError: a value of another type; the key, the value and what is wanted are named.
    """
    default = known.default
    found: Any
    if isinstance(default, list):
        found = _listed(_tuple(value), default)
    elif isinstance(default, str):
        found = _word(value, known)
    else:
        found = _number(value, type(default))
    if found is None:
        what = WORDS.get(type(default), f"a list like {default}")
        quoted = isinstance(default, str) and isinstance(value, (bool, int, float, datetime.date))
        hint = "; put it in quotes to mean text" if quoted else ""
        raise ConfigError(
            f"{key} in {origin} must be {what}, got {shown(value)} ({type(value).__name__}){hint}"
        )
    return found


def _number(value: Any, wanted: type) -> Any:
    if wanted is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return float(value)
    return value if type(value) is wanted else None


def _word(value: Any, known: Key) -> str | None:
    """Text; where YAML reads off, on, yes or no as true or false, the choice that was written."""
    if value is None:
        return ""
    if isinstance(value, bool):
        same = [word for word in known.allowed if isinstance(word, str) and yaml.safe_load(word) is value]
        return same[0] if len(same) == 1 else None
    return value if isinstance(value, str) else None


def _tuple(value: Any) -> Any:
    """A Python tuple or list written as text, as yacs takes it, as a list."""
    if isinstance(value, str) and value[:1] in "([" and len(value) < 2000:
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            read = ast.literal_eval(value)
            return list(read) if isinstance(read, (tuple, list)) else value
    return list(value) if isinstance(value, tuple) else value


def _listed(value: Any, default: list[Any]) -> list[Any] | None:
    first = default[0] if default else ""
    if isinstance(value, list):
        if isinstance(first, str):
            return value if all(isinstance(item, str) for item in value) else None
        found = [_number(item, type(first)) for item in value]
        return None if any(item is None for item in found) else found
    if isinstance(first, str):
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else None
    number = _number(value, type(first)) if len(default) == 1 else None  # one number stands for a list of it
    return None if number is None else [number]
