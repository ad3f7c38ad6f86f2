"""Paths in the configuration: ``~`` and ``$VAR`` are expanded once, where the configuration is read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from yacs.config import CfgNode

from crossreid.configs.errors import ConfigError
from crossreid.configs.schema import Key

VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")


def expand_all(cfg: CfgNode, keys: Mapping[str, Key]) -> None:
    """Expand the values of all keys that hold paths, in place.

    Raises:
        ConfigError: a variable or a user that is not known here.
    """
    for name, key in keys.items():
        if not key.kind:
            continue
        *sections, last = name.split(".")
        node: Any = cfg
        for section in sections:
            node = node[section]
        value = node[last]
        if isinstance(value, list):
            node[last] = [expand(name, item, key.kind) for item in value]
        else:
            node[last] = expand(name, value, key.kind)


def expand(name: str, value: str, kind: str = "path") -> str:
    """A path, or a dataset's name that ends in one, without ``~`` and ``$VAR``.

    Args:
        name: of the key or the file that holds the value, for errors.
        kind: ``path`` or ``dataset``.

    Raises:
        ConfigError: a variable or a user that is not known here.
    """
    head, colon, tail = value.partition(":") if kind == "dataset" else ("", "", value)
    for variable in VARIABLE.findall(tail):
        if variable.strip("{}") not in os.environ:
            raise ConfigError(
                f"{name} {value}: the environment has no variable {variable.strip('{}')}, set it or write the path out"
            )
    tail = os.path.expandvars(tail)
    whole = os.path.expanduser(tail)  # noqa: PTH111 - pathlib raises where ~name is nobody's
    if tail.startswith("~") and whole == tail:
        user = tail.split("/")[0]
        raise ConfigError(
            f"{name} {value}: no home folder of {user} here; write the path out, ./{user} if it is a name"
        )
    return f"{head}{colon}{whole}"
