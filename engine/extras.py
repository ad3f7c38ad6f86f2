"""Packages that only some users need: the extras of ``setup.py``, and the line that names what is missing."""

from __future__ import annotations

from importlib import util

from crossreid.engine.errors import InputError

EXTRAS = {
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "report": ("jinja2", "matplotlib"),
    "serve": ("fastapi", "uvicorn", "python-multipart"),
    "faiss": ("faiss-cpu",),
    "sweep": ("optuna",),
    "trackers": ("wandb", "mlflow"),
}
MODULES = {
    "python-multipart": "python_multipart",
    "faiss-cpu": "faiss",
}  # named otherwise than their packages


def installed(package: str) -> bool:
    return util.find_spec(MODULES.get(package, package)) is not None


def need(what: str, extra: str, *packages: str, otherwise: str = "") -> None:
    """Refuse what a missing package is needed for.

    Args:
        what: needs them.
        extra: the name that installs them.
        packages: by default all of the extra.
        otherwise: how to go without.

    Raises:
        InputError: packages are missing; names them and the command.
    """
    if missing := [name for name in packages or EXTRAS[extra] if not installed(name)]:
        raise InputError(f'{what} needs {", ".join(missing)}: pip install "crossreid[{extra}]"{otherwise}')
