"""Keys of METHOD disentangle: identity/pose encoders and a decoder, after ARN (Li et al., CVPR-W 2018)."""

from __future__ import annotations

from yacs.config import CfgNode

from crossreid.configs.errors import ConfigError
from crossreid.configs.schema import Section, choice, flag, number, numbers, path
from crossreid.configs.shared_checks import one_source, source_and_target

SECTION = "DISENTANGLE"
KEYS = Section()
KEYS.SOURCE_EPOCHS = number(
    0, 0, 1e6
)  # first train this many epochs on the source alone (then: direct transfer)
KEYS.VARIANT = choice("pose", "arn")  # pose: identity and pose encoder | arn: shared and private encoders
KEYS.POOL = choice("max", "avg")  # feature maps to features
KEYS.DECODER_WIDTHS = numbers(
    [2048, 512, 256, 64], 1, 1e5
)  # channels of its stages; a short one takes the last
KEYS.JITTER = flag(True)  # the pose encoder sees images with permuted and negated channels
KEYS.NEGATE = number(0.6667, 0, 1)  # probability that they are negated
KEYS.CLS_WEIGHT = number(1.0, 0, 1000)  # of the source identities' cross-entropy
KEYS.REC_WEIGHT = number(0.1, 0, 1000)  # of the reconstruction
KEYS.DIF_WEIGHT = number(0.1, 0, 1000)  # of the orthogonality of identity and pose
KEYS.APP_WEIGHT = number(1.0, 0, 1000)  # of the distance between identity features of one person
KEYS.CTR_WEIGHT = number(0.1, 0, 1000)  # of the contrastive loss over all pairs of a source batch
KEYS.MMD_WEIGHT = number(0.1, 0, 1000)  # of the discrepancy between the domains' identity features
KEYS.ORTHOGONALITY = choice("cosine", "original")  # cosine: squared cosine | original: summed inner product
KEYS.CTR_MARGIN = number(2.0, 0, 1e6)  # on the squared distance divided by the number of features
KEYS.MMD_SIGMAS = numbers([1.0, 2.0, 10.0], 0.001, 10000.0)  # widths of the discrepancy's kernels
KEYS.MMD_UNIT = flag(True)  # on L2-normalised features; false: as they are, as published
KEYS.MASK_DIR = path("")  # foreground: MASK_DIR/<dataset>/<image>.png, grey; empty: whole images
KEYS.GRID = number(
    6, 0, 32
)  # images of each domain in the pictures drawn at every evaluation; 0: no pictures


def check(cfg: CfgNode) -> None:
    """What the keys ask of each other."""
    one_source(cfg)
    source_and_target(cfg, "DISENTANGLE")
    if not cfg.DISENTANGLE.MMD_SIGMAS:
        raise ConfigError("DISENTANGLE.MMD_SIGMAS is empty; name one kernel width or more")
    if cfg.DISENTANGLE.VARIANT == "arn":
        if cfg.DISENTANGLE.JITTER or cfg.DISENTANGLE.APP_WEIGHT:
            raise ConfigError(
                "DISENTANGLE.VARIANT arn redraws every image as it is and has no loss of pairs: set DISENTANGLE.JITTER "
                "false and DISENTANGLE.APP_WEIGHT 0"
            )
    elif cfg.DATALOADER.INSTANCES < 2:
        raise ConfigError(
            f"METHOD disentangle needs pairs of one person: DATALOADER.INSTANCES is {cfg.DATALOADER.INSTANCES}, "
            "set it to 2 or more"
        )
    if cfg.MODEL.POOLING != "auto":
        raise ConfigError(
            f"METHOD disentangle pools as DISENTANGLE.POOL says: set MODEL.POOLING auto, not {cfg.MODEL.POOLING}"
        )
