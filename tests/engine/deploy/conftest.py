"""A network trained for seconds and three cameras of photos, shared by the tests of this folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from crossreid.datasets import load
from tests.tiny import overrides, train

SIZES = {"identities": 8, "test_identities": 4, "cameras": 3, "seed": 0, "height": 64, "width": 32}


@pytest.fixture(scope="session")
def checkpoint(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``last.pt`` of one epoch, its gallery the built-in winter's."""
    out = tmp_path_factory.mktemp("deployed")
    train(
        "configs/demo.yml", overrides(domains, out, "CAMERA_AWARE.SOURCE_EPOCHS", "0", "SOLVER.EPOCHS", "1")
    )
    return out / "checkpoints/demo/last.pt"


@pytest.fixture
def cameras(checkpoint: Path, domains: Path, tmp_path: Path) -> Path:
    """The gallery as one folder a camera with names that tell nothing."""
    gallery = load("synthetic:winter", domains, synthetic=SIZES).gallery
    folder = tmp_path / "cameras"
    for number, (path, cam) in enumerate(zip(gallery.paths, gallery.cams.tolist())):
        target = folder / f"door{cam}" / f"photo{number:02d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder
