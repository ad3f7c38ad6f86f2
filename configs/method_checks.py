"""What each method asks of the configuration beyond allowed values and ranges."""

from __future__ import annotations

from collections.abc import Callable

from yacs.config import CfgNode

from configs.errors import ConfigError


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
    stride = 8 if cfg.MODEL.BACKBONE == "tiny" else 16 * cfg.MODEL.LAST_STRIDE
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


METHOD_CHECKS: dict[str, Callable[[CfgNode], None]] = {
    "camera_aware": check_camera_aware,
    "ecn": check_ecn,
    "disentangle": check_disentangle,
}
