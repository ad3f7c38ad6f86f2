"""What several methods ask of the configuration."""

from __future__ import annotations

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


def clustering(cfg: CfgNode) -> None:
    """For methods that cluster the target."""
    method, instances = cfg.METHOD, cfg.DATALOADER.INSTANCES
    if not cfg.DATASETS.ADAPT:
        raise ConfigError(f"METHOD {method} trains on the target's images: set DATASETS.ADAPT true")
    if instances < 1:
        raise ConfigError(
            f"METHOD {method} draws several images of a cluster: set DATALOADER.INSTANCES (16 in Cluster Contrast)"
        )
    if cfg.INPUT.CAMSTYLE in ("cyclegan", "stargan", "plain"):
        raise ConfigError(
            f"METHOD {method} draws images by their clusters, INPUT.CAMSTYLE {cfg.INPUT.CAMSTYLE} draws copies: "
            "set it to none or statistics"
        )
