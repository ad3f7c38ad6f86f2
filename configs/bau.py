"""Keys of METHOD bau: Cho et al., NeurIPS 2024: labelled sources, an unseen target.

``INPUT`` says how the weak view is augmented: set ``INPUT.ERASE 0``. The strong one adds jitter and erasing.
"""

from __future__ import annotations

from yacs.config import CfgNode

from crossreid.configs.errors import ConfigError
from crossreid.configs.schema import Section, number, numbers

SECTION = "BAU"
KEYS = Section()
KEYS.INSTANCE_STAGES = number(3, 0, 4)  # stages of the backbone that end with an instance norm
KEYS.NEIGHBORS = number(10, 1, 1e4)  # among the views of a batch, for the weights of the alignment
KEYS.ALIGN_WEIGHT = number(1.5, 0, 1000)  # of the alignment of both views
KEYS.UNIFORM_WEIGHT = number(1.0, 0, 1000)  # of the uniformity of the batch
KEYS.DOMAIN_WEIGHT = number(1.0, 0, 1000)  # of the uniformity among the prototypes of the own domain
KEYS.TRIPLET_WEIGHT = number(1.0, 0, 1000)  # of the batch-hard triplet loss
KEYS.TRIPLET_MARGIN = number(0.3, 0, 1000)  # in units of the Euclidean distance of pooled features
KEYS.LABEL_SMOOTHING = number(0.1, 0, 1)  # of the classification
KEYS.KEEP = number(0.1, 0, 1)  # share of a prototype that an update keeps
KEYS.JITTER_PROB = number(0.5, 0, 1)  # strong view: probability of the colour jitter
KEYS.JITTER = numbers(
    [0.5, 2.0], 0, 10, length=2, rising=True
)  # factors of brightness, contrast and saturation
KEYS.HUE = number(0.1, 0, 0.5)  # strong view: shift of the hue, circles
KEYS.ERASE = number(0.5, 0, 1)  # strong view: probability of random erasing, its area as INPUT's


def check(cfg: CfgNode) -> None:
    """What the keys ask of each other."""
    sources = cfg.DATASETS.SOURCES
    if cfg.DATASETS.ADAPT:
        raise ConfigError(
            "METHOD bau never trains on the target, which is an unseen domain: set DATASETS.ADAPT false"
        )
    if len(set(sources)) < len(sources):
        raise ConfigError(f"DATASETS.SOURCES names a domain twice: {sources}")
    if cfg.DATALOADER.INSTANCES < 2:
        raise ConfigError(
            f"METHOD bau needs several images of an identity in a batch: DATALOADER.INSTANCES is "
            f"{cfg.DATALOADER.INSTANCES}, set it to 2 or more (4 in the paper)"
        )
