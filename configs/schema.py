"""How a key is declared: its default, and beside it what it may hold.

A section is filled by assignment, ``_C.SOLVER.LR = number(0.01, 0, 1e3)  # of the backbone``; ``Section.tree`` makes
the configuration of it, ``Section.keys`` the rules that a loaded configuration is checked by.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from yacs.config import CfgNode

from crossreid.configs.errors import ConfigError


@dataclass(frozen=True)
class Key:
    """A key's default and its rule: ``rule(value)`` says what is wrong with a value, or nothing.

    Args:
        kind: ``path`` or ``dataset`` where ``~`` and ``$VAR`` of the value are expanded, see ``configs.paths``.
    """

    default: Any
    rule: Callable[[Any], str | None]
    allowed: tuple[Any, ...] = ()
    kind: str = ""

    def check(self, name: str, value: Any) -> None:
        """Raise ConfigError if the value is not allowed; its type is the default's already."""
        if problem := self.rule(value):
            raise ConfigError(f"{name} {problem}")


def _outside(value: Any, low: float, high: float) -> str | None:
    items = value if isinstance(value, list) else [value]
    if all(low <= item <= high for item in items):  # false for NaN
        return None
    return f"is {value}, allowed is {low:g} to {high:g}"


def number(default: float, low: float, high: float) -> Key:
    """A whole number (where the default is one) or any number, from ``low`` to ``high``."""
    return Key(default, lambda value: _outside(value, low, high))


def numbers(
    default: list[Any], low: float, high: float, *, length: int | tuple[int, ...] = 0, rising: bool = False
) -> Key:
    """Numbers from ``low`` to ``high``: ``length`` of them (0: any number), ``rising``: none below the one before."""
    lengths = (length,) if isinstance(length, int) else length

    def rule(value: list[Any]) -> str | None:
        if any(lengths) and len(value) not in lengths:
            return f"must hold {' or '.join(map(str, lengths))} values, got {value}"
        if problem := _outside(value, low, high):
            return problem
        return f"must rise, got {value}" if rising and sorted(value) != value else None

    return Key(default, rule)


def choice(default: Any, *others: Any) -> Key:
    """One of some values."""
    allowed = (default, *others)

    def rule(value: Any) -> str | None:
        if value in allowed:
            return None
        near = difflib.get_close_matches(str(value)[:80], [str(a) for a in allowed], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"is {str(value)[:80]!r}, allowed are {', '.join(map(str, allowed))}{hint}"

    return Key(default, rule, allowed)


def choices(*allowed: str) -> Key:
    """Any number of some words, by default none of them."""

    def rule(value: list[str]) -> str | None:
        wrong = [word for word in value if word not in allowed]
        return f"names {wrong[0][:80]!r}, allowed are {', '.join(allowed)}" if wrong else None

    return Key([], rule, allowed)


def _unprintable(value: str) -> str | None:
    """What is wrong with a text that no file's name could hold."""
    if value and not value.strip():
        return f"is blank ({value[:20]!r}): give a name, or '' for none"
    wrong = [c for c in value if ord(c) < 32 or 0xD800 <= ord(c) <= 0xDFFF]
    if wrong:
        return f"holds the character {wrong[0]!a}, which no name or path can have"
    return f"has {len(value):,} characters, at most 4,096 are allowed" if len(value) > 4096 else None


def flag(default: bool) -> Key:
    """True or false."""
    return Key(default, lambda value: None)


def text(default: str) -> Key:
    """Any text that a file's name can hold."""
    return Key(default, _unprintable)


def path(default: str) -> Key:
    """A file or folder."""
    return Key(default, _unprintable, kind="path")


def dataset(default: str) -> Key:
    """A dataset's name, which may end in a path: ``csv:~/images.csv``."""
    return Key(default, _unprintable, kind="dataset")


def datasets(default: list[str]) -> Key:
    """A list of datasets' names."""

    def rule(value: list[str]) -> str | None:
        return next(filter(None, map(_unprintable, value)), None) or (
            None if all(value) else "holds an empty name"
        )

    return Key(default, rule, kind="dataset")


class Section:
    """Keys and sections by name, in the order of their declaration."""

    def __init__(self) -> None:
        object.__setattr__(self, "items", {})

    def __setattr__(self, name: str, value: Key | Section) -> None:
        self.items[name] = value

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["items"][name]
        except KeyError:
            raise AttributeError(name) from None

    def tree(self) -> CfgNode:
        """The defaults as a configuration."""
        node = CfgNode()
        for name, value in self.items.items():
            if isinstance(value, Section):
                node[name] = value.tree()
            else:
                node[name] = list(value.default) if isinstance(value.default, list) else value.default
        return node

    def keys(self, prefix: str = "") -> dict[str, Key]:
        """All keys by their dotted names."""
        found: dict[str, Key] = {}
        for name, value in self.items.items():
            found |= (
                value.keys(f"{prefix}{name}.") if isinstance(value, Section) else {f"{prefix}{name}": value}
            )
        return found
