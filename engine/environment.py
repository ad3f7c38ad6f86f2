"""Finds a Python that has the packages: this one, or the ``.venv`` that ``train.sh`` makes beside the code."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

PACKAGES = (
    "torch",
    "torchvision",
    "ignite",
    "yacs",
    "numpy",
    "PIL",
    "scipy",
    "sklearn",
    "tqdm",
    "safetensors",
)


def ensure_packages() -> None:
    """Continue in ``.venv`` if packages are missing here; without one, say how to install and leave with 2."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return
    root = Path(__file__).resolve().parent.parent
    python = root / ".venv" / "bin" / "python"
    if python.is_file() and Path(sys.prefix) != root / ".venv":
        os.execv(python, [str(python), *sys.orig_argv[1:]])
    print(  # noqa: T201
        f"error: {sys.executable} lacks {', '.join(missing)}: run bash tools/setup.sh (makes .venv with all packages)",
        file=sys.stderr,
    )
    raise SystemExit(2)
