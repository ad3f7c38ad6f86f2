"""From the config to splits and decoded images: what training, evaluation and every command read alike."""

from __future__ import annotations

import os
from dataclasses import dataclass

from yacs.config import CfgNode

from crossreid.datasets import Split, Splits, load
from crossreid.datasets.camstyle_copies import Styled
from crossreid.datasets.images import ImageDataset
from crossreid.datasets.transforms import Compose
from crossreid.engine.augmentation import plain_transform


@dataclass(frozen=True)
class Evaluation:
    """The target's query and gallery."""

    name: str
    query: ImageDataset
    gallery: ImageDataset
    plain: Compose


def dataset_root(cfg: CfgNode) -> str:
    """``DATASETS.ROOT``, else the environment's ``REID_DATASETS``, else ``./data``."""
    return cfg.DATASETS.ROOT or os.environ.get("REID_DATASETS", "") or "data"


def with_absolute_data(cfg: CfgNode) -> CfgNode:
    """The config with the paths of its datasets written out, so that it finds them from any folder."""
    root, fixed = os.path.abspath(dataset_root(cfg)), cfg.clone()  # noqa: PTH100 - links stay as they are

    def written_out(name: str) -> str:
        kind, _, place = name.partition(":")
        if not place or kind == "synthetic":
            return name
        below = place if os.path.exists(place) else os.path.join(root, place)  # noqa: PTH110, PTH118
        return f"{kind}:{os.path.abspath(below)}"  # noqa: PTH100

    fixed.defrost()
    fixed.DATASETS.ROOT = root
    fixed.DATASETS.SOURCES = [written_out(name) for name in cfg.DATASETS.SOURCES]
    fixed.DATASETS.TARGET = written_out(cfg.DATASETS.TARGET)
    fixed.freeze()
    return fixed


def read(cfg: CfgNode, name: str, *, training: bool = True) -> Splits:
    """The splits of one dataset as the config wants them; without ``training`` for its query and gallery alone."""
    options = cfg.DATASETS
    size = options.SYNTHETIC
    return load(
        name,
        dataset_root(cfg),
        strict=options.STRICT,
        subset=options.SUBSET,
        train_val=options.TRAIN_VAL if training else None,
        train_all=options.TRAIN_ALL and training,
        missing="keep" if options.ON_CORRUPT == "skip" else "error",
        synthetic={
            "identities": size.IDENTITIES,
            "test_identities": size.TEST_IDENTITIES,
            "cameras": size.CAMERAS,
            "seed": size.SEED,
            "height": size.SIZE[0],
            "width": size.SIZE[1],
        },
    )


def images_of(cfg: CfgNode, split: Split, copies: Styled | None = None) -> ImageDataset:
    """The decoded images of a split at the training size, with their camera-style copies if there are any."""
    options = cfg.DATASETS
    return ImageDataset(
        split,
        tuple(cfg.INPUT.SIZE),
        interpolation=cfg.INPUT.INTERPOLATION,
        cache=options.CACHE,
        cache_dir=options.CACHE_DIR or None,
        on_corrupt=options.ON_CORRUPT,
        styled=copies,
    )


def build_evaluation(cfg: CfgNode, name: str) -> Evaluation:
    """Query and gallery of a dataset.

    Raises:
        DatasetError: it has none with identities, or is missing or damaged.
    """
    return _evaluation(cfg, name, read(cfg, name, training=False))


def build_target_evaluation(cfg: CfgNode) -> Evaluation | None:
    """Query and gallery of ``DATASETS.TARGET``; None where their identities are not known."""
    splits = read(cfg, cfg.DATASETS.TARGET, training=cfg.DATASETS.ADAPT)
    return _evaluation(cfg, cfg.DATASETS.TARGET, splits) if splits.scored else None


def _evaluation(cfg: CfgNode, name: str, splits: Splits) -> Evaluation:
    query, gallery = splits.need_scores()
    return Evaluation(name, images_of(cfg, query), images_of(cfg, gallery), plain_transform(cfg))
