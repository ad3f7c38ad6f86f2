"""The configuration of each method: a module here with ``SECTION``, ``KEYS`` and ``check``, or one of the user's own.

Nothing is listed by hand: a method of this folder is found by its module, a method from outside the tree by its import
path (``METHOD: mypackage.mymethod``), whose module may hold the same three names beside the method itself.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
from functools import cache
from pathlib import Path
from types import ModuleType

from crossreid.configs.defaults import _C
from crossreid.configs.errors import ConfigError
from crossreid.configs.schema import Section

PACKAGE = __name__.rpartition(".")[0]
_MARK = re.compile(r"^SECTION\b", re.MULTILINE)


@cache
def method_names() -> tuple[str, ...]:
    """The methods of this tree, sorted."""
    folder = Path(__file__).parent
    modules = [module.name for module in pkgutil.iter_modules([str(folder)])]
    return tuple(
        sorted(name for name in modules if _MARK.search((folder / f"{name}.py").read_text(encoding="utf-8")))
    )


def method_config(method: str) -> ModuleType:
    """The module that holds the keys of a method.

    Raises:
        ConfigError: no such method; the nearest name is given, or why an import path does not lead to one.
    """
    if method in method_names():
        return importlib.import_module(f"{PACKAGE}.{method}")
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", method):
        near = difflib.get_close_matches(method, method_names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else "; or the import path of your own, package.module"
        raise ConfigError(f"METHOD is {method!r}, allowed are {', '.join(method_names())}{hint}")
    try:
        module = importlib.import_module(method)
    except ModuleNotFoundError as error:
        if error.name is None or not method.startswith(error.name):
            raise
        raise ConfigError(
            f"METHOD {method}: Python finds no module {error.name}; add the folder that holds it to PYTHONPATH"
        ) from None
    missing = [name for name in ("build", "build_extractor") if not hasattr(module, name)]
    if missing:
        raise ConfigError(f"METHOD {method}: {module.__file__} lacks {' and '.join(missing)}")
    return module


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
