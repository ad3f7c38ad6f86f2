"""What the tests of the image store share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torchvision import transforms

from crossreid.datasets import Split
from crossreid.datasets.images import ImageDataset
from tests.datasets import trees

SIZE = (48, 24)
ROOT = Path(__file__).parents[2]


def make_split(folder: Path, count: int = 6, size: tuple[int, int] = (64, 32)) -> Split:
    paths = [folder / f"{k:04d}_c1_{k}.jpg" for k in range(count)]
    for seed, path in enumerate(paths):
        trees.picture(path, seed, size)
    rows = np.arange(count)
    return Split(tuple(map(str, paths)), rows % 3, rows % 2 + 1, "own/train", relabelled=True)


def everything(dataset: ImageDataset) -> np.ndarray:
    return dataset.gather(np.arange(len(dataset))).images.numpy().copy()


def stores(folder: Path) -> list[Path]:
    """What lies in a folder of stores, beside the lock."""
    return sorted(path for path in folder.iterdir() if path.name != ".lock")


def usual(path: str | Path, size: tuple[int, int] = SIZE) -> np.ndarray:
    """torchvision's way: PIL, RGB, Resize."""
    with Image.open(path) as image:
        return np.asarray(transforms.Resize(size)(image.convert("RGB"))).transpose(2, 0, 1)
