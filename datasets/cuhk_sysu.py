"""CUHK-SYSU cropped to its people, as domain generalisation trains on it: no query, no gallery, no cameras."""

from __future__ import annotations

import re
from pathlib import Path

from crossreid.datasets.listing import inside, list_images
from crossreid.datasets.splits import DatasetError, Splits, make_splits

NAME = re.compile(r"p(\d+)_", re.IGNORECASE)  # p11422_s16929_1.jpg, p11422_n1_x.png


def read_cuhk_sysu(root: Path, name: str, folder: str) -> Splits:
    """Every image is for training, of camera 0: its scenes are thousands of photos and shots of films.

    Args:
        folder: of the images inside ``root``.

    Raises:
        DatasetError: a file name that does not begin with an identity.

    Source: Xiao et al., Joint Detection and Identification Feature Learning for Person Search, CVPR 2017.
    """
    images = inside(root, folder)
    listing = list_images(images)
    rows = []
    for file in listing.images:
        match = NAME.match(file.rpartition("/")[2])
        if match is None:
            raise DatasetError(
                f"{images / file}: the file name does not begin with p<identity>_, as in p11422_s16929_1.jpg; "
                "rename or remove the file"
            )
        rows.append((str(images / file), int(match.group(1)), 0))
    return make_splits(name, str(root), {"train": rows}, notes={"train": listing.notes(f"{name}/train")})
