"""The flat lower-case YAML of the seed project, key by key onto our tree."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Container
from typing import Any

from crossreid.configs.errors import ConfigError

LOGGER = logging.getLogger("crossreid")

# The seed's own defaults, for keys that a file leaves out.
DEFAULTS: dict[str, Any] = {
    "prefix": "baseline",
    "fp16": False,
    "mix": False,
    "alpha": 0.5,
    "neighbor_mode": 1,
    "neighbor_eps": 0.8,
    "scale": 20,
    "batch_size": 128,
    "joint_training": False,
    "source_dataset": "market",
    "target_dataset": "duke",
    "drop_last_stride": False,
    "new_params_lr": 0.1,
    "ft_lr": 0.01,
    "optimizer": "sgd",
    "num_epoch": 60,
    "lr_step": [40],
    "random_flip": True,
    "random_crop": True,
    "random_erase": True,
    "color_jitter": False,
    "padding": 10,
    "eval_interval": -1,
    "wd": 5e-4,
    "image_size": [256, 128],
    "log_period": 50,
}


def _same(value: Any) -> Any:
    return value


def _neighbor_mode(value: Any) -> str:
    modes = {0: "camera_agnostic", 1: "camera_aware"}
    if type(value) is not int or value not in modes:
        raise ConfigError(f"neighbor_mode must be 0 (camera-agnostic) or 1 (camera-aware), got {value!r}")
    return modes[value]


TABLE: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "prefix": ("NAME", _same),
    "fp16": ("SOLVER.AMP", lambda v: "auto" if v else "float32"),
    "mix": ("CAMERA_AWARE.MIXUP", _same),
    "alpha": ("CAMERA_AWARE.MIXUP_ALPHA", _same),
    "neighbor_mode": ("CAMERA_AWARE.NEIGHBOR_MODE", _neighbor_mode),
    "neighbor_eps": ("CAMERA_AWARE.EPS", _same),
    "scale": ("CAMERA_AWARE.SCALE", _same),
    "batch_size": ("DATALOADER.BATCH_SIZE", _same),
    "joint_training": ("DATASETS.ADAPT", _same),
    "source_dataset": ("DATASETS.SOURCES", lambda v: [v]),
    "target_dataset": ("DATASETS.TARGET", _same),
    "drop_last_stride": ("MODEL.LAST_STRIDE", lambda v: 1 if v else 2),
    "new_params_lr": ("SOLVER.NEW_LR", _same),
    "ft_lr": ("SOLVER.LR", _same),
    "optimizer": ("SOLVER.OPTIMIZER", _same),
    "num_epoch": ("SOLVER.EPOCHS", _same),
    "lr_step": ("SOLVER.STEPS", _same),
    "random_flip": ("INPUT.FLIP", lambda v: 0.5 if v else 0.0),
    "random_crop": ("INPUT.CROP", _same),
    "random_erase": ("INPUT.ERASE", lambda v: 0.5 if v else 0.0),
    "color_jitter": ("INPUT.JITTER", lambda v: [0.1, 0.1, 0.1, 0.0] if v else [0.0] * 4),
    "padding": ("INPUT.PAD", _same),
    "eval_interval": ("TEST.PERIOD", lambda v: max(v, 0) if isinstance(v, int) else v),
    "wd": ("SOLVER.WEIGHT_DECAY", _same),
    "image_size": ("INPUT.SIZE", _same),
    "log_period": ("LOG.PERIOD", _same),
}


def is_flat(values: dict[str, Any], sections: Container[str]) -> bool:
    """Whether a YAML uses the seed's keys, and not ours in small letters."""
    return any(
        isinstance(key, str) and key.islower() and key.partition(".")[0].upper() not in sections
        for key in values
    )


def translate(values: dict[str, Any]) -> dict[str, Any]:
    """The seed's flat keys as a nested dict of ours; what the file leaves out takes the seed's default."""
    unknown = [key for key in values if key not in TABLE]
    if unknown:
        near = difflib.get_close_matches(str(unknown[0]), list(TABLE), n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(TABLE)}"
        raise ConfigError(f"unknown key {unknown[0]} in a flat (lower-case) config{hint}")
    switches = ("fp16", "random_flip", "random_erase", "color_jitter", "drop_last_stride")
    nested: dict[str, Any] = {}
    for key, value in {**DEFAULTS, **values}.items():
        if key in switches and not isinstance(value, bool):
            raise ConfigError(f"{key} must be true or false, got {value!r}")
        ours, convert = TABLE[key]
        node = nested
        *sections, leaf = ours.split(".")
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = convert(value)
    if nested["SOLVER"]["OPTIMIZER"] != DEFAULTS["optimizer"]:
        LOGGER.warning(
            "optimizer: %s is what trains here; the original program never read this key and always took sgd",
            nested["SOLVER"]["OPTIMIZER"],
        )
    nested["INPUT"] |= {
        "JITTER_FIRST": True,  # the seed jitters before it pads
        "PAD_VALUE": [127, 0, 0],  # what its torchvision made of the grey level 127
        "ERASE_ASPECT": "uniform",
    }
    nested["TEST"]["AP"] = "trapezoidal"
    return nested
