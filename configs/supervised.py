"""Keys of METHOD supervised: the strong baseline of one or several labelled domains, which adaptations start from."""

from __future__ import annotations

from yacs.config import CfgNode

from crossreid.configs.errors import ConfigError
from crossreid.configs.schema import Section, choice, number

SECTION = "SUPERVISED"
KEYS = Section()
KEYS.LABEL_SMOOTHING = number(0.1, 0, 1)  # of the classification
KEYS.TRIPLET_WEIGHT = number(1.0, 0, 1000)  # of the batch-hard triplet loss
KEYS.TRIPLET = choice("margin", "soft")  # hinge at TRIPLET_MARGIN, or softplus without margin
KEYS.TRIPLET_MARGIN = number(0.3, 0, 1000)  # in units of the Euclidean distance of pooled features
KEYS.FEATURE = choice("neck", "pooled")  # what retrieves: after or before the batch-norm neck
KEYS.PARTS = number(0, 0, 16)  # part features of a ViT's shuffled patches (TransReID's JPM has 4); 0: none


def check(cfg: CfgNode) -> None:
    """What the keys ask of each other."""
    settings = cfg.SUPERVISED
    if cfg.DATASETS.ADAPT:
        raise ConfigError("METHOD supervised never trains on the target: set DATASETS.ADAPT false")
    if settings.TRIPLET_WEIGHT and cfg.DATALOADER.INSTANCES < 2:
        raise ConfigError(
            f"SUPERVISED.TRIPLET_WEIGHT {settings.TRIPLET_WEIGHT:g} needs several images of an identity in a batch: "
            f"DATALOADER.INSTANCES is {cfg.DATALOADER.INSTANCES}, set it to 2 or more (4 in the paper)"
        )
