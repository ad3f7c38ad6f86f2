"""Which cameras a network has a learnt embedding of (TransReID's SIE), and which row of it an image takes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossreid.modeling.errors import ModelError


def no_cameras() -> Tensor:
    """The table [0, 2] of a network whose weights are still to be loaded: it takes the file's cameras."""
    return torch.empty(0, 2, dtype=torch.int64)


def camera_table(domains: Mapping[str, NDArray[np.int64]]) -> Tensor:
    """Every camera of the training data, ascending within its dataset.

    Args:
        domains: name of a dataset -> cameras of its images.

    Returns:
        [C, 2] int64: checksum of the dataset's name, camera.

    Raises:
        ModelError: images of an unknown camera, or one camera only.
    """
    rows = []
    for name, cameras in domains.items():
        if unknown := int((cameras < 0).sum()):
            raise ModelError(
                f"MODEL.SIE true needs cameras: {unknown} of {len(cameras)} images of {name} have none (-1); set it to "
                "false"
            )
        rows += [(_code(name), int(camera)) for camera in np.unique(cameras)]
    if len(rows) < 2:
        raise ModelError(
            f"MODEL.SIE true needs several cameras, {' and '.join(domains)} has one: set it to false"
        )
    return torch.tensor(rows, dtype=torch.int64)


def known_cameras(network: nn.Module) -> Tensor | None:
    """The table [C, 2] of the cameras that a network embeds; None: it embeds none."""
    tables = (getattr(module, "sie_cameras", None) for module in network.modules())
    return next((table for table in tables if table is not None), None)


def camera_rows(network: nn.Module, dataset: str, cameras: NDArray[np.int64]) -> Tensor | None:
    """Which row of the camera embedding each image takes.

    Args:
        dataset: its name, as in ``camera_table``.
        cameras: [N] of the images.

    Returns:
        [N] int64; None of a network that embeds no cameras.

    Raises:
        ModelError: a camera that the network was not trained with.
    """
    table = known_cameras(network)
    if table is None:
        return None
    rows = {(code, camera): row for row, (code, camera) in enumerate(table.tolist())}
    code = _code(dataset)
    if new := sorted({int(c) for c in np.unique(cameras) if (code, int(c)) not in rows}):
        raise ModelError(
            f"MODEL.SIE true: the network was not trained with {_listed(new)} of {dataset}; MODEL.SIE false leaves the "
            "camera embedding out"
        )
    return torch.tensor([rows[code, int(camera)] for camera in cameras], dtype=torch.int64)


def for_cameras(network: nn.Module, weights: Mapping[str, Any]) -> Mapping[str, Any]:
    """Weights of a file without the embedding of other cameras; a network that knows none yet takes the file's."""
    for prefix, module in network.named_modules():
        own, stem = getattr(module, "sie_cameras", None), f"{prefix}." if prefix else ""
        theirs = weights.get(f"{stem}sie_cameras")
        if own is None or not isinstance(theirs, Tensor) or theirs.dim() != 2:
            continue
        if not len(own):
            embedder: Any = module
            embedder.know_cameras(theirs)
        elif not torch.equal(own.cpu(), theirs):
            weights = {k: v for k, v in weights.items() if not k.startswith(f"{stem}sie_")}
    return weights


def _code(dataset: str) -> int:
    return zlib.crc32(dataset.encode(errors="surrogateescape"))


def _listed(cameras: list[int]) -> str:
    if cameras == [-1]:
        return "images without a camera (-1)"
    return f"camera{'s' if len(cameras) > 1 else ''} {', '.join(map(str, cameras[:5]))}" + (
        " …" if len(cameras) > 5 else ""
    )
