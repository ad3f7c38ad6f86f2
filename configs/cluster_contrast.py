"""Keys of METHOD cluster_contrast: Dai et al., ACCV 2022; unsupervised, two-stage, or joint with a source."""

from __future__ import annotations

from yacs.config import CfgNode

from crossreid.configs.cluster_keys import cluster_keys
from crossreid.configs.errors import ConfigError
from crossreid.configs.schema import Section, choice, number
from crossreid.configs.shared_checks import clustering, source_and_target

SECTION = "CLUSTER_CONTRAST"
KEYS = Section()
KEYS.SOURCE_EPOCHS = number(0, 0, 1e6)  # with a source: first train this many epochs on it alone
KEYS.NORM = choice(
    "domain", "split", "shared"
)  # with a source: batch norms a domain, a split neck, or one for both
KEYS.TEMPERATURE = number(0.05, 0.0001, 100)  # of the softmax over the memory
KEYS.UPDATE = choice(
    "momentum", "hard", "mean"
)  # by each feature in turn | the least similar | the mean of a batch
KEYS.KEEP = number(0.1, 0, 1)  # share of a cluster's row that an update keeps
KEYS.SOURCE_KEEP = number(0.2, 0, 1)  # the same of a source identity's row
KEYS.CLUSTER = cluster_keys(k1=30, eps=0.6)  # of the target's images, before every epoch


def check(cfg: CfgNode) -> None:
    """What the keys ask of each other."""
    settings, sources = cfg.CLUSTER_CONTRAST, cfg.DATASETS.SOURCES
    clustering(cfg)
    if len(sources) > 1:
        raise ConfigError(
            f"METHOD cluster_contrast takes one source or none, DATASETS.SOURCES names {sources}"
        )
    if settings.SOURCE_EPOCHS and not sources:
        raise ConfigError(
            "CLUSTER_CONTRAST.SOURCE_EPOCHS needs a source: set it to 0 or name one in DATASETS.SOURCES"
        )
    if sources and settings.NORM == "domain" and cfg.MODEL.WEIGHTS:
        raise ConfigError(
            "CLUSTER_CONTRAST.NORM domain has batch norms that the checkpoint of MODEL.WEIGHTS lacks: set NORM split"
        )
    if sources:
        source_and_target(cfg, "CLUSTER_CONTRAST")
