"""Keys of METHOD ecn: Zhong et al., CVPR 2019; epochs count from 1 and after the source-only ones."""

from __future__ import annotations

from yacs.config import CfgNode

from crossreid.configs.errors import ConfigError
from crossreid.configs.schema import Section, choice, flag, number, numbers
from crossreid.configs.shared_checks import one_source, source_and_target

SECTION = "ECN"
KEYS = Section()
KEYS.SOURCE_EPOCHS = number(
    0, 0, 1e6
)  # first train this many epochs on the source alone (then: direct transfer)
KEYS.LAMBDA = number(0.3, 0, 1)  # weight of the invariance loss; the source's cross-entropy has 1 - LAMBDA
KEYS.TEMPERATURE = number(0.05, 0.0001, 100)  # of the softmax over the memory
KEYS.NEIGHBORS = number(6, 0, 1e6)  # k of the neighbourhood-invariance; 0: exemplar-invariance alone
KEYS.NEIGHBOR_START = number(6, 1, 1e6)  # first epoch of the neighbourhood-invariance
KEYS.ALPHA = number(0.01, 0, 1)  # a memory row keeps ALPHA * (epoch - 1) of itself at an update, at most 1
KEYS.MMD = flag(False)  # align source and target features by maximum mean discrepancy
KEYS.LAMBDA_EXT = number(0.33, 0, 1000)  # weight of that loss
KEYS.MMD_SIGMAS = numbers(
    [1.0, 2.0, 10.0], 0.001, 10000.0
)  # widths of its kernels, on L2-normalised features
KEYS.EMBEDDING = number(4096, 1, 1e6)  # embedding dimension
KEYS.DROPOUT = number(0.5, 0, 0.99)  # probability, of the embedding in both branches
KEYS.FROZEN_STAGES = number(
    3, 0, 3
)  # untrained, batch norm in evaluation mode: 1 stem, 2 layer1 too, 3 layer2 too
KEYS.SHORTCUT_NORMS = choice(
    "frozen", "batch"
)  # of frozen stages; batch: by the batch, as ECN's program does
KEYS.JOINT_BATCH = flag(False)  # batch norm sees both domains together; false: each by itself, as published


def check(cfg: CfgNode) -> None:
    """What the keys ask of each other."""
    one_source(cfg)
    source_and_target(cfg, "ECN")
    if not cfg.ECN.MMD_SIGMAS:
        raise ConfigError("ECN.MMD_SIGMAS is empty; name one kernel width or more, or set ECN.MMD false")
