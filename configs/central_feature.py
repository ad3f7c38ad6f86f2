"""Keys of METHOD central_feature: patch features in two stages, after PAUL (Yang et al., CVPR 2019)."""

from __future__ import annotations

from yacs.config import CfgNode

from crossreid.configs.errors import ConfigError
from crossreid.configs.schema import Section, choice, number, numbers
from crossreid.configs.shared_checks import one_source

SECTION = "CENTRAL_FEATURE"
KEYS = Section()
KEYS.STAGE = choice(
    "pretrain", "unsupervised"
)  # pretrain: one source | unsupervised: target, from MODEL.WEIGHTS
KEYS.PATCHES = number(6, 1, 64)  # windows an image
KEYS.PATCH_DIM = number(256, 1, 1e5)  # dimension of a patch's feature
KEYS.EMBED_DIM = number(128, 1, 1e5)  # dimension of a patch's embedding; frozen in stage 2
KEYS.TRIPLET_WEIGHT = number(0.1, 0, 1000)  # pretrain: beside the sum of the patches' cross-entropies
KEYS.TRIPLET_MARGIN = number(1.0, 0, 1000)  # pretrain: on L2-normalised embeddings
KEYS.GENERATOR_LR = number(1e-5, 0, 1000)  # pretrain: rate of the patch generator
KEYS.GENERATOR_START = number(26, 1, 1e6)  # pretrain: first epoch in which it trains
KEYS.GENERATOR_END = number(40, 0, 1e6)  # pretrain: last one; below START: never
KEYS.PATCH_WEIGHT = number(2.0, 0, 1000)  # of the patches' loss, PEDAL
KEYS.SCALE = number(
    15.0, 0.001, 10000.0
)  # inverse temperature on squared distances; 15 for Market, 5 for Duke
KEYS.NEIGHBORS = number(10, 1, 1e6)  # k nearest memory rows of a patch
KEYS.NEIGHBOR_GROWTH = number(0, 0, 1e6)  # neighbours that join evenly over all epochs
KEYS.MEMORY = choice(
    "momentum", "controlled", "latest"
)  # a patch row: running mean | MEMORY_GAINS | last feature
KEYS.MEMORY_GAINS = numbers([0.1, 0.0, 0.2], 0, 10, length=3)  # controlled: of error, its sum, its growth
KEYS.KEEP = number(0.9, 0, 1)  # share of a memory row (of patches, of images) that an update keeps
KEYS.EMBEDDING_WEIGHT = number(
    0.0, 0, 1000
)  # of PEDAL on embeddings, with as many neighbours as a batch has images
KEYS.IMAGE_WEIGHT = number(1.0, 0, 1000)  # of the image-level loss
KEYS.IMAGE_MARGIN = number(2.0, 0, 1000)  # on distances of embeddings: PATCHES x EMBED_DIM cosines
KEYS.MAX_RANK = number(15, 1, 1e6)  # images of the batch that cyclic ranking tries as the hard negative
KEYS.NEAREST = number(3, 1, 1e6)  # a negative's own nearest must not contain the anchor
KEYS.VIEW_JITTER = numbers(
    [0.2, 0.2, 0.2, 0.1], 0, 1, length=4
)  # second view: brightness, contrast, saturation, hue
KEYS.VIEW_ROTATION = number(10.0, 0, 180)  # second view: degrees to either side
KEYS.VIEW_AREA = numbers([0.7, 0.95], 0.01, 1, length=2)  # second view: crop area as a fraction of the image
KEYS.PICTURES = number(8, 0, 64)  # images drawn with their patch windows at every evaluation; 0: none


def check(cfg: CfgNode) -> None:
    """What the keys ask of each other."""
    if cfg.MODEL.POOLING != "auto":
        raise ConfigError(
            f"METHOD central_feature pools its windows by the mean: set MODEL.POOLING auto, not {cfg.MODEL.POOLING}"
        )
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
    if not (cfg.MODEL.WEIGHTS or cfg.FIRST_STAGE):
        raise ConfigError(
            "CENTRAL_FEATURE.STAGE unsupervised starts from a stage-1 checkpoint: set FIRST_STAGE to the YAML of "
            "a run with STAGE pretrain, or MODEL.WEIGHTS to its last.pt"
        )
    if not (options.PATCH_WEIGHT or options.IMAGE_WEIGHT or options.EMBEDDING_WEIGHT):
        raise ConfigError(
            "CENTRAL_FEATURE.PATCH_WEIGHT, IMAGE_WEIGHT and EMBEDDING_WEIGHT are all 0: nothing to train with"
        )
