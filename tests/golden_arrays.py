"""Reads the golden arrays: outputs of the original systems on small inputs (``tests/golden``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "golden"


def settings(case: str) -> list[dict[str, torch.Tensor]]:
    """Every setting of a case: array name (without its ``s<i>_`` prefix) -> tensor as stored."""
    with np.load(FOLDER / f"{case}.npz") as file:
        return [
            {
                name.removeprefix(f"s{i}_"): torch.from_numpy(np.asarray(file[name]))
                for name in file.files
                if name.startswith(f"s{i}_")
            }
            for i in range(int(file["n_settings"]))
        ]


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference relative to the largest stored value; NaN counts as infinitely wrong."""
    actual, expected = actual.detach().double(), expected.detach().double()
    difference = (actual - expected).abs().max()
    scale = expected.abs().max().clamp_min(1e-30)
    return float("inf") if bool(difference.isnan()) else float(difference / scale)
