"""What values a key may hold, and which keys contradict each other."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from yacs.config import CfgNode

from crossreid.configs.errors import ConfigError
from crossreid.configs.method_checks import METHOD_CHECKS

BACKBONES = ("tiny", "resnet18", "resnet34", "resnet50", "resnet101", "resnet50_ibn_a", "resnet101_ibn_a")
METHODS = tuple(METHOD_CHECKS)

CHOICES: dict[str, Sequence[Any]] = {
    "METHOD": METHODS,
    "MODEL.BACKBONE": BACKBONES,
    "MODEL.LAST_STRIDE": (1, 2),
    "DATASETS.SUBSET": ("labeled", "detected"),
    "DATASETS.CACHE": ("auto", "ram", "disk", "off"),
    "DATASETS.ON_CORRUPT": ("error", "skip"),
    "SOLVER.OPTIMIZER": ("sgd", "adam", "adamw"),
    "SOLVER.SCHEDULER": ("multistep", "cosine"),
    "SOLVER.AMP": ("float32", "float16", "bfloat16"),
    "CAMERA_AWARE.NEIGHBOR_MODE": ("camera_aware", "camera_agnostic"),
    "CAMERA_AWARE.MEMORY_DTYPE": ("float32", "float16"),
    "CAMERA_AWARE.MEMORY_INIT": ("first", "pass"),
    "INPUT.CAMSTYLE": ("none", "statistics", "cyclegan", "stargan", "plain"),
    "DISENTANGLE.VARIANT": ("pose", "arn"),
    "DISENTANGLE.POOL": ("max", "avg"),
    "DISENTANGLE.ORTHOGONALITY": ("cosine", "original"),
    "M3L.META_GRADIENT": ("original", "full"),
    "M3L.METABN_SCALE": ("variance", "std"),
    "CENTRAL_FEATURE.STAGE": ("pretrain", "unsupervised"),
    "CENTRAL_FEATURE.LOSS": ("pedal", "central"),
    "TEST.AP": ("rectangular", "trapezoidal"),
    "TEST.METRIC": ("cosine", "euclidean"),
}

INFINITY = float("inf")
RANGES: dict[str, tuple[float, float]] = {  # inclusive; each item of a list
    "SEED": (0, 2**31 - 1),
    "MODEL.CHECKPOINT_STAGES": (0, 4),
    "DATASETS.SYNTHETIC.IDENTITIES": (2, 5000),
    "DATASETS.SYNTHETIC.TEST_IDENTITIES": (2, 5000),
    "DATASETS.SYNTHETIC.CAMERAS": (1, 20),
    "DATASETS.SYNTHETIC.SEED": (0, 2**31 - 1),
    "DATASETS.SYNTHETIC.SIZE": (32, 1024),
    "INPUT.SIZE": (16, 2048),
    "INPUT.MEAN": (0, 1),
    "INPUT.STD": (1e-6, INFINITY),
    "INPUT.FLIP": (0, 1),
    "INPUT.PAD": (0, 512),
    "INPUT.PAD_VALUE": (0, 255),
    "INPUT.ERASE": (0, 1),
    "INPUT.ERASE_AREA": (1e-4, 1),
    "INPUT.CROP_AREA": (0.01, 1),
    "INPUT.CROP_ASPECT": (0.05, 20),
    "INPUT.JITTER": (0, 1),
    "DATALOADER.BATCH_SIZE": (2, 10**6),
    "DATALOADER.INSTANCES": (0, 1024),
    "DATALOADER.ITERS_PER_EPOCH": (0, 10**9),
    "DATALOADER.WORKERS": (0, 256),
    "SOLVER.ACCUMULATE": (1, 10**4),
    "SOLVER.GRAD_CLIP": (0, 1e9),
    "SOLVER.LR": (0, 1e3),
    "SOLVER.NEW_LR": (0, 1e3),
    "SOLVER.MOMENTUM": (0, 1),
    "SOLVER.WEIGHT_DECAY": (0, 10),
    "SOLVER.EPOCHS": (1, 10**6),
    "SOLVER.STEPS": (1, 10**6),
    "SOLVER.GAMMA": (0, 1),
    "SOLVER.WARMUP_EPOCHS": (0, 10**6),
    "SOLVER.WARMUP_FACTOR": (0, 1),
    "CAMERA_AWARE.SOURCE_EPOCHS": (0, 10**6),
    "CAMERA_AWARE.SCALE": (1e-3, 1e4),
    "CAMERA_AWARE.EPS": (0, 1),
    "CAMERA_AWARE.INTRA_WEIGHT": (0, 1e3),
    "CAMERA_AWARE.INTRA_START": (1, 10**6),
    "CAMERA_AWARE.INTER_WEIGHT": (0, 1e3),
    "CAMERA_AWARE.INTER_START": (1, 10**6),
    "CAMERA_AWARE.AGNOSTIC_WEIGHT": (0, 1e3),
    "CAMERA_AWARE.AGNOSTIC_START": (1, 10**6),
    "CAMERA_AWARE.MIXUP_ALPHA": (1e-3, 1e3),
    "CAMERA_AWARE.MIXUP_START": (1, 10**6),
    "CAMERA_AWARE.KEEP": (0, 1),
    "ECN.SOURCE_EPOCHS": (0, 10**6),
    "ECN.LAMBDA": (0, 1),
    "ECN.TEMPERATURE": (1e-4, 100),
    "ECN.NEIGHBORS": (0, 10**6),
    "ECN.NEIGHBOR_START": (1, 10**6),
    "ECN.ALPHA": (0, 1),
    "ECN.LAMBDA_EXT": (0, 1e3),
    "ECN.MMD_SIGMAS": (1e-3, 1e4),
    "ECN.EMBEDDING": (1, 10**6),
    "ECN.DROPOUT": (0, 0.99),
    "ECN.FROZEN_STAGES": (0, 3),
    "DISENTANGLE.SOURCE_EPOCHS": (0, 10**6),
    "DISENTANGLE.DECODER_WIDTHS": (1, 10**5),
    "DISENTANGLE.NEGATE": (0, 1),
    "DISENTANGLE.CLS_WEIGHT": (0, 1e3),
    "DISENTANGLE.REC_WEIGHT": (0, 1e3),
    "DISENTANGLE.DIF_WEIGHT": (0, 1e3),
    "DISENTANGLE.APP_WEIGHT": (0, 1e3),
    "DISENTANGLE.CTR_WEIGHT": (0, 1e3),
    "DISENTANGLE.MMD_WEIGHT": (0, 1e3),
    "DISENTANGLE.CTR_MARGIN": (0, 1e6),
    "DISENTANGLE.MMD_SIGMAS": (1e-3, 1e4),
    "DISENTANGLE.GRID": (0, 32),
    "M3L.PLAIN_EPOCHS": (0, 10**6),
    "M3L.META_TEST_WEIGHT": (0, 1e3),
    "M3L.INNER_RATE": (0, 1e3),
    "M3L.MEMORY_WEIGHT": (0, 1e3),
    "M3L.TEMPERATURE": (1e-4, 100),
    "M3L.KEEP": (0, 1),
    "M3L.TRIPLET_WEIGHT": (0, 1e3),
    "M3L.TRIPLET_MARGIN": (0, 1e3),
    "M3L.METABN_ALPHA": (1e-3, 1e3),
    "CENTRAL_FEATURE.PATCHES": (1, 64),
    "CENTRAL_FEATURE.PATCH_DIM": (1, 10**5),
    "CENTRAL_FEATURE.EMBED_DIM": (1, 10**5),
    "CENTRAL_FEATURE.TRIPLET_WEIGHT": (0, 1e3),
    "CENTRAL_FEATURE.TRIPLET_MARGIN": (0, 1e3),
    "CENTRAL_FEATURE.GENERATOR_LR": (0, 1e3),
    "CENTRAL_FEATURE.GENERATOR_START": (1, 10**6),
    "CENTRAL_FEATURE.GENERATOR_END": (0, 10**6),
    "CENTRAL_FEATURE.PATCH_WEIGHT": (0, 1e3),
    "CENTRAL_FEATURE.SCALE": (1e-3, 1e4),
    "CENTRAL_FEATURE.NEIGHBORS": (1, 10**6),
    "CENTRAL_FEATURE.KEEP": (0, 1),
    "CENTRAL_FEATURE.IMAGE_WEIGHT": (0, 1e3),
    "CENTRAL_FEATURE.IMAGE_MARGIN": (0, 1e3),
    "CENTRAL_FEATURE.MAX_RANK": (1, 10**6),
    "CENTRAL_FEATURE.NEAREST": (1, 10**6),
    "CENTRAL_FEATURE.VIEW_JITTER": (0, 1),
    "CENTRAL_FEATURE.VIEW_ROTATION": (0, 180),
    "CENTRAL_FEATURE.VIEW_AREA": (0.01, 1),
    "CENTRAL_FEATURE.PICTURES": (0, 64),
    "TEST.PERIOD": (0, 10**6),
    "TEST.RANKS": (1, 10**6),
    "TEST.BATCH_SIZE": (1, 10**6),
    "TEST.AQE": (0, 10**4),
    "TEST.CHUNK_MB": (1, 10**6),
    "TEST.RERANK.K1": (1, 10**4),
    "TEST.RERANK.K2": (1, 10**4),
    "TEST.RERANK.LAMBDA": (0, 1),
    "CHECKPOINT.PERIOD": (1, 10**6),
    "CHECKPOINT.N_SAVED": (0, 10**6),
    "LOG.PERIOD": (1, 10**9),
    "LOG.RANK_LIST": (0, 100),
}

LENGTHS = {"INPUT.SIZE": 2, "INPUT.MEAN": 3, "INPUT.STD": 3, "INPUT.ERASE_AREA": 2, "INPUT.JITTER": 4}
LENGTHS |= {"DATASETS.SYNTHETIC.SIZE": 2, "INPUT.CROP_AREA": 2, "INPUT.CROP_ASPECT": 2}
LENGTHS |= {"CENTRAL_FEATURE.VIEW_JITTER": 4, "CENTRAL_FEATURE.VIEW_AREA": 2}


def get(cfg: CfgNode, key: str) -> Any:
    """The value of a dotted key."""
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    return node


def check(cfg: CfgNode) -> None:
    """Raise ConfigError for the first value that is not allowed or contradicts another."""
    for key, allowed in CHOICES.items():
        value = get(cfg, key)
        if value not in allowed:
            near = difflib.get_close_matches(str(value), [str(a) for a in allowed], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{key} is {value!r}, allowed are {', '.join(map(str, allowed))}{hint}")
    for key, length in LENGTHS.items():
        if len(get(cfg, key)) != length:
            raise ConfigError(f"{key} must hold {length} values, got {get(cfg, key)}")
    for key, (low, high) in RANGES.items():
        value = get(cfg, key)
        for item in value if isinstance(value, list) else [value]:
            if not low <= item <= high:  # also catches NaN
                raise ConfigError(f"{key} is {value}, allowed is {low:g} to {high:g}")
    _check_together(cfg)


def _check_together(cfg: CfgNode) -> None:
    solver = cfg.SOLVER
    if not cfg.DATASETS.SOURCES and not cfg.DATASETS.ADAPT:
        raise ConfigError(
            "DATASETS.SOURCES is empty and DATASETS.ADAPT false: nothing to train on; name a labelled domain, [duke]"
        )
    if not cfg.TEST.RANKS:
        raise ConfigError("TEST.RANKS is empty; name one rank of the CMC curve or more, [1, 5, 10]")
    if not cfg.DATASETS.TARGET:
        raise ConfigError("DATASETS.TARGET is empty; name the domain to evaluate on (it may be the source)")
    if sorted(solver.STEPS) != solver.STEPS:
        raise ConfigError(f"SOLVER.STEPS must rise, got {solver.STEPS}")
    if solver.WARMUP_EPOCHS > solver.EPOCHS:
        raise ConfigError(
            f"SOLVER.WARMUP_EPOCHS {solver.WARMUP_EPOCHS} exceeds SOLVER.EPOCHS {solver.EPOCHS}"
        )
    if solver.NESTEROV and solver.MOMENTUM == 0:
        raise ConfigError("SOLVER.NESTEROV true needs SOLVER.MOMENTUM above 0")
    if cfg.MODEL.COMPILE and cfg.MODEL.CHECKPOINT_STAGES:
        raise ConfigError("MODEL.COMPILE true plans memory itself: set MODEL.CHECKPOINT_STAGES to 0")
    if cfg.INPUT.ERASE_AREA[0] > cfg.INPUT.ERASE_AREA[1]:
        raise ConfigError(f"INPUT.ERASE_AREA must be [smallest, largest], got {cfg.INPUT.ERASE_AREA}")
    for key in ("CROP_AREA", "CROP_ASPECT"):
        if cfg.INPUT[key][0] > cfg.INPUT[key][1]:
            raise ConfigError(f"INPUT.{key} must be [smallest, largest], got {cfg.INPUT[key]}")
    if "/" in cfg.NAME or cfg.NAME in (".", ".."):
        raise ConfigError(f"NAME is a folder's name, it cannot be {cfg.NAME!r}")
    METHOD_CHECKS[cfg.METHOD](cfg)
