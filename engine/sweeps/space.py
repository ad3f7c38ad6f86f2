"""What a sweep varies: an axis is a key with values, or with a range to draw from."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossreid.configs import ConfigError
from crossreid.configs.reading import parse, shown
from crossreid.configs.schema import Key
from crossreid.configs.values import cast
from crossreid.engine.errors import InputError

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"\s*({_NUMBER})\s*\.\.\s*({_NUMBER})\s*(?::\s*(log|{_NUMBER})\s*)?")
OWN = ("NAME", "OUTPUT_DIR", "RESUME", "IF_EXISTS")  # the sweep sets them itself
DIGITS = 4  # significant ones of a random number


@dataclass(frozen=True)
class Axis:
    """A key and its values, or the range that they are drawn from.

    Args:
        values: choices in their order; empty for a range.
        low, high: ends of the range, both included.
        log: draw the logarithm evenly.
        whole: whole numbers only.
    """

    key: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def draw(self, random: np.random.Generator) -> Any:
        """A value: a choice, or a number of the range."""
        if self.values:
            return self.values[int(random.integers(len(self.values)))]
        ends = (self.low, self.high)
        low, high = (math.log(end) for end in ends) if self.log else ends
        number = low + (high - low) * random.random()
        number = math.exp(number) if self.log else number
        if self.whole:
            return min(int(self.high), max(int(self.low), round(number)))
        return min(self.high, max(self.low, float(f"{number:.{DIGITS}g}")))


def read_axis(key: str, given: Any, keys: Mapping[str, Key], origin: str) -> Axis:
    """An axis from what a command line or a YAML gives.

    Args:
        key: of the config, in any case.
        given: a list of values, a text ``low..high``, ``low..high:log`` or ``low..high:step``, or one value.
        keys: all keys of the config, by name.
        origin: where it stands, for errors.

    Raises:
        ConfigError: a value that the key refuses.
        InputError: a key that a sweep cannot vary, no value, a value twice, a range upside down.
    """
    known = keys[key]
    if key in OWN:
        raise InputError(f"{key} in {origin} cannot be swept: the sweep gives every run its own")
    if isinstance(given, str) and (match := _RANGE.fullmatch(given)):
        return _range(key, match, known, origin)
    listed = given if isinstance(given, list) else [given]
    if not listed:
        raise InputError(f"{key} in {origin} has no values: give a,b,c or low..high")
    values = [_value(key, value, known, origin) for value in listed]
    twice = [shown(v) for i, v in enumerate(values) if v in values[:i]]
    if twice:
        raise InputError(f"{key} in {origin} names {twice[0]} twice: keep one")
    return Axis(key, tuple(values))


def _range(key: str, match: re.Match[str], known: Key, origin: str) -> Axis:
    whole = isinstance(known.default, int) and not isinstance(known.default, bool)
    if not whole and not isinstance(known.default, float):
        raise InputError(
            f"{key} in {origin} holds no number, {match[0].strip()} is no value of it: give a,b,c"
        )
    low, high = (_value(key, parse(match[i], origin), known, origin) for i in (1, 2))
    if not low < high:
        raise InputError(f"{key} in {origin}: {match[0].strip()} is empty, the second end must be the larger")
    if match[3] == "log":
        if low <= 0:
            raise InputError(f"{key} in {origin}: a range of logarithms starts above 0, not at {low:g}")
        return Axis(key, (), low, high, log=True, whole=whole)
    if match[3] is None:
        return Axis(key, (), low, high, whole=whole)
    step = float(match[3])
    if not 0 < step <= high - low:
        raise InputError(
            f"{key} in {origin}: a step of {match[3]} leads nowhere between {low:g} and {high:g}"
        )
    count = int((high - low) / step + 1e-9) + 1
    steps = [float(f"{low + i * step:.12g}") for i in range(count)]
    if whole and any(value != int(value) for value in steps):
        raise InputError(f"{key} in {origin} takes whole numbers: a step of {match[3]} leads to others")
    return Axis(key, tuple(int(value) if whole else value for value in steps))


def _value(key: str, value: Any, known: Key, origin: str) -> Any:
    found = cast(key, value, known, origin)
    known.check(key, found)
    return found


def split_values(text: str, origin: str) -> Any:
    """What follows ``KEY=``: the values between commas outside brackets and quotes, or the text of a range.

    Raises:
        ConfigError: text that is not YAML.
    """
    if _RANGE.fullmatch(text):
        return text
    values = parse(f"[{text}]", origin)
    if not isinstance(values, list):
        raise ConfigError(f"{origin} is not YAML: {shown(text)}")
    return values


def word(value: Any) -> str:
    """A value as one word of a command line, which reads as the same value again."""
    if isinstance(value, str):
        try:
            same = parse(value, "") == value
        except ConfigError:
            same = False
        return value if same else json.dumps(value)
    return json.dumps(value) if isinstance(value, (bool, list)) else repr(value)
