"""Foreground masks beside the training images (``DISENTANGLE.MASK_DIR``), moved by the same augmentation."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError
from yacs.config import CfgNode

from crossreid.datasets import Split
from crossreid.datasets.decode import upright_size
from crossreid.datasets.images import ImageDataset
from crossreid.engine.data import Data
from crossreid.engine.errors import InputError

GREY = ("1", "L", "LA")  # Pillow's modes of one brightness


def find_masks(folder: str, dataset: str, split: Split) -> Split:
    """The masks of a split, in its order: ``<folder>/<dataset>/<image>.png``, ":" in the dataset's name as "-".

    Raises:
        InputError: a mask that is missing, not grey, or of another size than its image.
    """
    place = Path(folder).expanduser() / dataset.replace(":", "-")
    masks = [place / f"{Path(path).stem}.png" for path in split.paths]
    if len(set(masks)) < len(masks):
        raise InputError(
            f"DISENTANGLE.MASK_DIR: images of {dataset} share their names, masks cannot be told apart"
        )
    present = {entry.name for entry in place.iterdir()} if place.is_dir() else set()
    missing = [mask for mask in masks if mask.name not in present]
    if missing:
        raise InputError(
            f"DISENTANGLE.MASK_DIR: {len(missing)} of {len(masks)} training images of {dataset} have no mask, first "
            f"{missing[0]}; add them, or leave DISENTANGLE.MASK_DIR empty"
        )
    for path, mask in zip(split.paths, masks):
        _check(path, mask)
    return Split(tuple(map(str, masks)), split.pids, split.cams, f"{split.name} masks")


def _check(path: str, mask: Path) -> None:
    try:
        with Image.open(path) as image, Image.open(mask) as grey:
            size, mask_size, mode = upright_size(image), upright_size(grey), grey.mode
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"DISENTANGLE.MASK_DIR: {mask} cannot be read ({error})") from None
    if mask_size != size:
        raise InputError(
            f"DISENTANGLE.MASK_DIR: {mask} has {mask_size[0]}x{mask_size[1]} pixels, its image {path} has "
            f"{size[0]}x{size[1]}; a mask needs its image's size"
        )
    if mode not in GREY:
        raise InputError(
            f"DISENTANGLE.MASK_DIR: {mask} is not grey (mode {mode}); save one channel, 255 the person"
        )


def add_masks(cfg: CfgNode, data: Data) -> None:
    """Let the batches of both domains bring the masks of ``DISENTANGLE.MASK_DIR``, if that is set."""
    options, folder = cfg.DATASETS, cfg.DISENTANGLE.MASK_DIR
    for name, dataset in {"target": options.TARGET, "source": options.SOURCES[0]}.items():
        if folder and name in data.domains:
            images = data.domains[name].images
            masks = find_masks(folder, dataset, images.split)
            store = {"cache": options.CACHE, "cache_dir": options.CACHE_DIR or None}
            data.beside(name, ImageDataset(masks, images.size, **store))
