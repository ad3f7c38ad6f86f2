"""What values a key may hold, and which keys contradict each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from yacs.config import CfgNode

from crossreid.configs.errors import ConfigError
from crossreid.configs.methods import method_config
from crossreid.configs.schema import Key


def get(cfg: CfgNode, key: str) -> Any:
    """The value of a dotted key."""
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    return node


def check(cfg: CfgNode, keys: Mapping[str, Key]) -> None:
    """Raise ConfigError for the first value that is not allowed or contradicts another."""
    for name, key in keys.items():
        key.check(name, get(cfg, name))
    _check_together(cfg)
    method = method_config(cfg.METHOD)
    if hasattr(method, "check"):
        method.check(cfg)


def _check_together(cfg: CfgNode) -> None:
    solver = cfg.SOLVER
    if not cfg.DATASETS.SOURCES and not cfg.DATASETS.ADAPT:
        raise ConfigError(
            "DATASETS.SOURCES is empty and DATASETS.ADAPT false: nothing to train on; name a labelled domain, [duke]"
        )
    if not cfg.TEST.RANKS:
        raise ConfigError("TEST.RANKS is empty; name one rank of the CMC curve or more, [1, 5, 10]")
    if cfg.CHECKPOINT.SELECT not in ("last", "oracle") and not (cfg.TEST.CRITERIA and cfg.DATASETS.ADAPT):
        raise ConfigError(
            f"CHECKPOINT.SELECT {cfg.CHECKPOINT.SELECT} judges the target's training images: set TEST.CRITERIA and "
            "DATASETS.ADAPT true, or select last or oracle"
        )
    if cfg.CHECKPOINT.SELECT == "source_guided" and len(cfg.DATASETS.SOURCES) != 1:
        raise ConfigError(
            f"CHECKPOINT.SELECT source_guided judges by one labelled source, DATASETS.SOURCES names "
            f"{cfg.DATASETS.SOURCES}: select another criterion or last"
        )
    if not cfg.DATASETS.TARGET:
        raise ConfigError("DATASETS.TARGET is empty; name the domain to evaluate on (it may be the source)")
    if solver.WARMUP_EPOCHS > solver.EPOCHS:
        raise ConfigError(
            f"SOLVER.WARMUP_EPOCHS {solver.WARMUP_EPOCHS} exceeds SOLVER.EPOCHS {solver.EPOCHS}"
        )
    if solver.NESTEROV and solver.MOMENTUM == 0:
        raise ConfigError("SOLVER.NESTEROV true needs SOLVER.MOMENTUM above 0")
    if cfg.DATALOADER.EPOCH == "steps" and not cfg.DATALOADER.ITERS_PER_EPOCH:
        raise ConfigError("DATALOADER.EPOCH steps needs their number: set DATALOADER.ITERS_PER_EPOCH")
    if cfg.DATALOADER.EPOCH == "target" and not cfg.DATASETS.ADAPT:
        raise ConfigError("DATALOADER.EPOCH target needs a target to train on: set DATASETS.ADAPT true")
    if cfg.DATALOADER.EPOCH == "source" and not cfg.DATASETS.SOURCES:
        raise ConfigError("DATALOADER.EPOCH source needs a source: name one in DATASETS.SOURCES")
    if cfg.MODEL.COMPILE and cfg.MODEL.CHECKPOINT_STAGES:
        raise ConfigError("MODEL.COMPILE true plans memory itself: set MODEL.CHECKPOINT_STAGES to 0")
    if cfg.MODEL.BN_GROUP and cfg.MODEL.SYNC_BN:
        raise ConfigError(
            "MODEL.SYNC_BN true and MODEL.BN_GROUP contradict each other: set one of them to false or 0"
        )
    if cfg.MODEL.BN_GROUP == 1:
        raise ConfigError(
            "MODEL.BN_GROUP 1 leaves a batch norm without variance: set 0 (all images) or 2 and more"
        )
    if cfg.INPUT.ERASE_AREA[0] > cfg.INPUT.ERASE_AREA[1]:
        raise ConfigError(f"INPUT.ERASE_AREA must be [smallest, largest], got {cfg.INPUT.ERASE_AREA}")
    if cfg.INPUT.CROP_RAW and cfg.METHOD == "disentangle" and cfg.DISENTANGLE.MASK_DIR:
        raise ConfigError(
            "INPUT.CROP_RAW true cuts images apart from their masks: leave DISENTANGLE.MASK_DIR empty"
        )
    for key in ("CROP_AREA", "CROP_ASPECT"):
        if cfg.INPUT[key][0] > cfg.INPUT[key][1]:
            raise ConfigError(f"INPUT.{key} must be [smallest, largest], got {cfg.INPUT[key]}")
    if not re.fullmatch(r"[^\W_~-][^/\\]*|_[^/\\]+", cfg.NAME) or cfg.NAME.strip() != cfg.NAME:
        raise ConfigError(
            f"NAME is a folder's name, it cannot be {cfg.NAME[:80]!r}: begin with a letter or digit, no /"
        )
    if len(cfg.NAME.encode()) > 200:
        raise ConfigError(f"NAME has {len(cfg.NAME.encode())} bytes, a folder's name can have 200")
