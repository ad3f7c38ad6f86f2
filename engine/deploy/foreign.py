"""Checkpoints of other projects as ours: a whole network with a config, which every command takes."""

from __future__ import annotations

from pathlib import Path

from crossreid import configs
from crossreid.configs.overrides import pairs
from crossreid.engine import checkpoint
from crossreid.engine.methods import load_method
from crossreid.modeling.checkpoints import read_weights
from crossreid.modeling.conversion import Converted, check_output, convert
from crossreid.modeling.weights import load_network
from crossreid.modeling.whole_networks import backbone_of, whole_network

BASE = [
    *("METHOD", "supervised", "DATASETS.ADAPT", "false", "MODEL.PRETRAINED", "none"),
    *("DATALOADER.INSTANCES", "4", "DATALOADER.BATCH_SIZE", "64"),
]  # fmt: skip


def adopt(origin: Path, out: Path, overrides: list[str]) -> tuple[Converted, list[str]]:
    """Write a checkpoint of METHOD supervised from another project's file: backbone, neck, pooling, part features.

    The backbone is found by its tensors; where none is known by that name, its weights alone are written, for
    ``MODEL.PRETRAINED``. The config holds what the file tells: backbone, strides, pooling, which feature is compared,
    mean and std.

    Args:
        overrides: KEY VALUE pairs, which have the last word: ``INPUT.SIZE`` if the file's is not 256 x 128.

    Returns:
        What was converted, and the keys and values that the file told; none: of a backbone alone.

    Raises:
        ModelError: a file that cannot be read or written, or weights that differ from ``MODEL.BACKBONE``'s.
        ConfigError: keys that contradict each other.
    """
    check_output(out, "crossreid")
    given, weights = dict(pairs(overrides)), read_weights(origin)
    name = str(given.get("MODEL.BACKBONE") or backbone_of(weights))
    if not name:
        return convert(origin, out, "crossreid"), []
    wished = configs.load(None, [*BASE, "MODEL.BACKBONE", name, *overrides])
    options = {
        "size": tuple(wished.INPUT.SIZE),
        "last_stride": wished.MODEL.LAST_STRIDE if "MODEL.LAST_STRIDE" in given else 0,
        "patch_stride": wished.MODEL.PATCH_STRIDE,
    }
    whole = whole_network(origin, weights, name, options)
    mean, std = ([round(value, 5) for value in values] for values in whole.normalisation)
    keys = {"MODEL.BACKBONE": name, **whole.keys, "INPUT.MEAN": mean, "INPUT.STD": std}
    told = [word for key, value in keys.items() for word in (key, str(value))]
    cfg = configs.load(None, [*BASE, "NAME", out.stem, *told, *overrides])
    load_network(load_method(cfg.METHOD).build_extractor(cfg), whole.state, str(origin))
    checkpoint.save(
        out, {"model": whole.state, "config": cfg.dump(), "method": cfg.METHOD, "format": checkpoint.FORMAT}
    )
    return Converted(whole.names, whole.skipped, whole.notes), told
