"""Cross-domain person re-identification: one importable name for the whole framework.

In a wheel ``crossreid`` holds the folders ``configs``, ``datasets``, ``engine``, ``losses`` and ``modeling``; in a
checkout they stand beside it and are found through ``__path__``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossreid.engine.deploy.embedder import Embedder

__all__ = ["Embedder"]
__version__ = "0.2.0"

_HERE = Path(__file__).resolve().parent
if not (_HERE / "engine").is_dir():  # a checkout
    __path__.append(str(_HERE.parent))


def __getattr__(name: str) -> Any:
    """Names that are imported on first use: ``import crossreid`` itself loads nothing."""
    if name == "Embedder":
        from crossreid.engine.deploy.embedder import Embedder

        return Embedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
