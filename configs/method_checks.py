"""What each method asks of the configuration beyond allowed values and ranges."""

from __future__ import annotations

from collections.abc import Callable

from yacs.config import CfgNode

from crossreid.configs.errors import ConfigError


def one_source(cfg: CfgNode) -> None:
    """For methods that train on one labelled domain."""
    if len(cfg.DATASETS.SOURCES) != 1:
        raise ConfigError(
            f"METHOD {cfg.METHOD} takes one source, DATASETS.SOURCES names {cfg.DATASETS.SOURCES}"
        )


def source_and_target(cfg: CfgNode, section: str) -> None:
    """For methods with a source-only phase and batches of equal halves."""
    epochs, batch = cfg[section].SOURCE_EPOCHS, cfg.DATALOADER.BATCH_SIZE
    if not cfg.DATASETS.ADAPT:
        return
    if epochs >= cfg.SOLVER.EPOCHS:
        raise ConfigError(
            f"{section}.SOURCE_EPOCHS {epochs} leaves nothing of SOLVER.EPOCHS {cfg.SOLVER.EPOCHS} to adapt in; for "
            "training on the source alone set DATASETS.ADAPT false"
        )
    if batch % 2:
        raise ConfigError(
            f"DATALOADER.BATCH_SIZE {batch} is odd; half of it is source, half target: make it even"
        )


def check_camera_aware(cfg: CfgNode) -> None:
    one_source(cfg)
    source_and_target(cfg, "CAMERA_AWARE")


def check_ecn(cfg: CfgNode) -> None:
    one_source(cfg)
    source_and_target(cfg, "ECN")
    if not cfg.ECN.MMD_SIGMAS:
        raise ConfigError("ECN.MMD_SIGMAS is empty; name one kernel width or more, or set ECN.MMD false")


def check_disentangle(cfg: CfgNode) -> None:
    one_source(cfg)
    source_and_target(cfg, "DISENTANGLE")
    if not cfg.DISENTANGLE.MMD_SIGMAS:
        raise ConfigError("DISENTANGLE.MMD_SIGMAS is empty; name one kernel width or more")
    if cfg.DATALOADER.INSTANCES < 2:
        raise ConfigError(
            f"METHOD disentangle needs pairs of one person: DATALOADER.INSTANCES is {cfg.DATALOADER.INSTANCES}, "
            "set it to 2 or more"
        )
    stride = (8 if cfg.MODEL.BACKBONE == "tiny" else 16) * cfg.MODEL.LAST_STRIDE
    if any(side % stride for side in cfg.INPUT.SIZE):
        near = [max(1, round(side / stride)) * stride for side in cfg.INPUT.SIZE]
        raise ConfigError(
            f"INPUT.SIZE {cfg.INPUT.SIZE} must be divisible by {stride}, the stride of MODEL.BACKBONE "
            f"{cfg.MODEL.BACKBONE}, for METHOD disentangle: {near} would do"
        )
    if len(cfg.DISENTANGLE.DECODER_WIDTHS) < stride.bit_length() - 2:
        raise ConfigError(
            f"DISENTANGLE.DECODER_WIDTHS {cfg.DISENTANGLE.DECODER_WIDTHS} holds too few values: the stride of "
            f"MODEL.BACKBONE {cfg.MODEL.BACKBONE} is {stride}, so that {stride.bit_length() - 2} are needed"
        )


def check_m3l(cfg: CfgNode) -> None:
    sources = cfg.DATASETS.SOURCES
    if cfg.DATASETS.ADAPT:
        raise ConfigError(
            "METHOD m3l never trains on the target, which is an unseen domain: set DATASETS.ADAPT false"
        )
    if cfg.M3L.META and len(sources) < 2:
        raise ConfigError(
            f"METHOD m3l holds one source out and trains on the others: DATASETS.SOURCES names {sources}, give two or "
            "more, or set M3L.META false for joint training"
        )
    if cfg.M3L.META and cfg.M3L.PLAIN_EPOCHS >= cfg.SOLVER.EPOCHS:
        raise ConfigError(
            f"M3L.PLAIN_EPOCHS {cfg.M3L.PLAIN_EPOCHS} leaves no epoch of SOLVER.EPOCHS {cfg.SOLVER.EPOCHS} to "
            "meta-learn in; for joint training alone set M3L.META false"
        )
    if len(set(sources)) < len(sources):
        raise ConfigError(f"DATASETS.SOURCES names a domain twice: {sources}")
    if cfg.DATALOADER.INSTANCES < 2:
        raise ConfigError(
            f"METHOD m3l needs several images of an identity in a batch: DATALOADER.INSTANCES is "
            f"{cfg.DATALOADER.INSTANCES}, set it to 2 or more (4 in the paper)"
        )
    if not cfg.M3L.MEMORY_WEIGHT and not cfg.M3L.TRIPLET_WEIGHT:
        raise ConfigError("M3L.MEMORY_WEIGHT and M3L.TRIPLET_WEIGHT are both 0: nothing to train with")
    if cfg.MODEL.SYNC_BN:
        raise ConfigError("METHOD m3l differentiates twice, MODEL.SYNC_BN true cannot: set it to false")
    if cfg.MODEL.COMPILE:
        raise ConfigError("METHOD m3l differentiates twice, MODEL.COMPILE true cannot: set it to false")
    if cfg.MODEL.CHECKPOINT_STAGES:
        raise ConfigError("METHOD m3l saves memory by M3L.RECOMPUTE true: set MODEL.CHECKPOINT_STAGES to 0")
    if cfg.SOLVER.ACCUMULATE > 1:
        raise ConfigError(
            "METHOD m3l takes an inner and an outer step on each batch: set SOLVER.ACCUMULATE to 1 (M3L.RECOMPUTE true "
            "makes room for larger batches)"
        )


def check_central_feature(cfg: CfgNode) -> None:
    options = cfg.CENTRAL_FEATURE
    if options.VIEW_AREA[0] > options.VIEW_AREA[1]:
        raise ConfigError(f"CENTRAL_FEATURE.VIEW_AREA must be [smallest, largest], got {options.VIEW_AREA}")
    if options.VIEW_JITTER[3] > 0.5:
        raise ConfigError(f"CENTRAL_FEATURE.VIEW_JITTER {options.VIEW_JITTER}: the hue turns by 0.5 at most")
    if options.STAGE == "pretrain":
        one_source(cfg)
        if cfg.DATASETS.ADAPT:
            raise ConfigError(
                "CENTRAL_FEATURE.STAGE pretrain trains on the source alone: set DATASETS.ADAPT false"
            )
        if cfg.DATALOADER.INSTANCES < 2:
            raise ConfigError(
                "CENTRAL_FEATURE.STAGE pretrain shows every image with another one of its identity: "
                f"DATALOADER.INSTANCES is {cfg.DATALOADER.INSTANCES}, set it to 2 or more"
            )
        return
    if cfg.DATASETS.SOURCES or not cfg.DATASETS.ADAPT:
        raise ConfigError(
            "CENTRAL_FEATURE.STAGE unsupervised trains on the target alone: set DATASETS.SOURCES [] and "
            f"DATASETS.ADAPT true (they are {cfg.DATASETS.SOURCES} and {cfg.DATASETS.ADAPT})"
        )
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError(
            "CENTRAL_FEATURE.STAGE unsupervised starts from a stage-1 checkpoint: set MODEL.WEIGHTS to last.pt of a "
            "run with STAGE pretrain"
        )
    if not options.PATCH_WEIGHT and not options.IMAGE_WEIGHT:
        raise ConfigError("CENTRAL_FEATURE.PATCH_WEIGHT and IMAGE_WEIGHT are both 0: nothing to train with")


METHOD_CHECKS: dict[str, Callable[[CfgNode], None]] = {
    "camera_aware": check_camera_aware,
    "ecn": check_ecn,
    "disentangle": check_disentangle,
    "m3l": check_m3l,
    "central_feature": check_central_feature,
}
