"""Which photos a network was trained on: it tells their people apart better than those of fresh ones."""

from __future__ import annotations

import os
from pathlib import Path

from crossreid.datasets import DatasetError
from crossreid.engine.checkpoint import restored_config
from crossreid.engine.reading import read
from crossreid.modeling.weights import read_checkpoint


def training_photos(checkpoint: Path) -> set[str]:
    """Paths, links resolved, of the photos that a checkpoint's own run has trained on.

    Built-in domains are left out, as are datasets that are not here any more.
    """
    if not checkpoint.is_file():
        return set()
    text = read_checkpoint(checkpoint).get("config")
    if not isinstance(text, str):
        return set()
    cfg, _ = restored_config(text, [], str(checkpoint))
    names = {*cfg.DATASETS.SOURCES, *([cfg.DATASETS.TARGET] if cfg.DATASETS.ADAPT else [])}
    found: set[str] = set()
    for name in sorted(name for name in names if not name.startswith("synthetic:")):
        try:
            found.update(os.path.realpath(path) for path in read(cfg, name).train.paths)
        except DatasetError:
            continue
    return found
