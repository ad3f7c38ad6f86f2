"""Keys of METHOD m3l: Zhao et al., CVPR 2021: several labelled sources, an unseen target."""

from __future__ import annotations

from yacs.config import CfgNode

from crossreid.configs.errors import ConfigError
from crossreid.configs.schema import Section, choice, flag, number

SECTION = "M3L"
KEYS = Section()
KEYS.META = flag(True)  # False: joint training on all sources with the same losses, no meta-learning
KEYS.PLAIN_EPOCHS = number(0, 0, 1e6)  # first epochs without meta-learning (randomly initialised backbones)
KEYS.META_GRADIENT = choice(
    "original", "full"
)  # original (as published): through the inner gradient alone | full
KEYS.META_TEST_WEIGHT = number(1.0, 0, 1000)  # of the meta-test loss in the outer step
KEYS.INNER_RATE = number(1.0, 0, 1000)  # inner step's rate as a share of the current outer one
KEYS.MEMORY_WEIGHT = number(1.0, 0, 1000)  # of the cross-entropy over the identity memory
KEYS.TEMPERATURE = number(0.05, 0.0001, 100)  # of that softmax
KEYS.KEEP = number(0.2, 0, 1)  # share of a memory row that an update keeps
KEYS.TRIPLET_WEIGHT = number(1.0, 0, 1000)  # of the batch-hard triplet loss
KEYS.TRIPLET_MARGIN = number(0.3, 0, 1000)  # in units of the Euclidean distance of pooled features
KEYS.METABN = flag(True)  # mix meta-test features with draws from the meta-train domains' statistics
KEYS.METABN_SCALE = choice("variance", "std")  # what the draws take as standard deviation
KEYS.METABN_ALPHA = number(1.0, 0.001, 1000)  # share of the draws ~ Beta(ALPHA, ALPHA)
KEYS.TEST_STATISTICS = choice("copies", "network")  # moved by the meta-test pass; published: network
KEYS.STEM_RELU = flag(True)  # after the first batch norm; the published program has none
KEYS.TRIPLET_BATCH = choice(
    "all", "rank"
)  # images that the triplet loss compares: of all ranks, or of its own
KEYS.RECOMPUTE = flag(False)  # repeat the meta-train passes, keep no graphs of them: less memory, more time


def check(cfg: CfgNode) -> None:
    """What the keys ask of each other."""
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
    if cfg.M3L.RECOMPUTE and cfg.MODEL.DROP_PATH:
        raise ConfigError(
            "M3L.RECOMPUTE true would drop other paths in its second pass: set MODEL.DROP_PATH 0"
        )
    if cfg.MODEL.CHECKPOINT_STAGES:
        raise ConfigError("METHOD m3l saves memory by M3L.RECOMPUTE true: set MODEL.CHECKPOINT_STAGES to 0")
    if cfg.SOLVER.ACCUMULATE > 1:
        raise ConfigError(
            "METHOD m3l takes an inner and an outer step on each batch: set SOLVER.ACCUMULATE to 1 (M3L.RECOMPUTE true "
            "makes room for larger batches)"
        )
