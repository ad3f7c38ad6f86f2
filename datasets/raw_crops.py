"""Random boxes cut from the image files themselves, before they are resized: decoded anew in every epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crossreid.datasets.geometry import ATTEMPTS
from crossreid.datasets.images import ImageDataset
from crossreid.datasets.samplers import generator
from crossreid.datasets.splits import Batch


class RawCrops:
    """What ``Streams`` shows of a dataset: each image cut to a box of its own, drawn from (seed, iteration, rank).

    Args:
        dataset: the whole images.
        area: range of the crop area as a fraction of the image in the file, drawn uniformly.
        aspect: range of the box's height / width in the file's pixels, drawn uniformly.
        seed: of the boxes.
        rank: of this process.

    Source: ECN's random-sized rectangle crop, which cuts before it resizes (bilinear).
    """

    mode = "off"  # decoded while training, by the workers

    def __init__(
        self,
        dataset: ImageDataset,
        area: tuple[float, float] = (0.64, 1.0),
        aspect: tuple[float, float] = (2.0, 3.0),
        *,
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        self.dataset, self.area, self.aspect, self.seed, self.rank = dataset, area, aspect, seed, rank

    def batch(self, rows: Sequence[int] | NDArray[np.int64], iteration: int, *, pin: bool = False) -> Batch:
        """The batch of an iteration."""
        random = generator(self.seed, iteration, self.rank, 3)
        return self.dataset.gather(rows, pin=pin, box=lambda width, height: self.box(random, width, height))

    def box(self, random: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in pixels; the whole image where none of ten draws fits."""
        for _ in range(ATTEMPTS):
            area, aspect = random.uniform(*self.area) * width * height, random.uniform(*self.aspect)
            tall, wide = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if 1 <= tall <= height and 1 <= wide <= width:
                top, left = int(random.integers(height - tall + 1)), int(random.integers(width - wide + 1))
                return left, top, left + wide, top + tall
        return 0, 0, width, height
