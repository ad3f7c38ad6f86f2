"""Cross-domain person re-identification: one importable name for the whole framework.

In a wheel ``crossreid`` holds the folders ``configs``, ``datasets``, ``engine``, ``losses`` and ``modeling``; in a
checkout they stand beside it and are found through ``__path__``.
"""

from __future__ import annotations

from pathlib import Path

__version__ = "0.2.0"

_HERE = Path(__file__).resolve().parent
if not (_HERE / "engine").is_dir():  # a checkout
    __path__.append(str(_HERE.parent))
