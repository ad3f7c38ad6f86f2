"""One module a method: ``build_extractor(cfg)`` for evaluation, ``build(cfg, data)`` for training."""

from __future__ import annotations

import importlib
from types import ModuleType


def load_method(name: str) -> ModuleType:
    """The module of a method: of this folder by its name, any other by its import path (``package.module``)."""
    return importlib.import_module(name if "." in name else f"{__name__}.{name}")
