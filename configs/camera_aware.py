"""Keys of METHOD camera_aware: Luo et al., ECCV 2020; epochs count from 1 and after the source-only ones."""

from __future__ import annotations

from yacs.config import CfgNode

from crossreid.configs.schema import Section, choice, flag, number
from crossreid.configs.shared_checks import one_source, source_and_target

SECTION = "CAMERA_AWARE"
KEYS = Section()
KEYS.SOURCE_EPOCHS = number(
    0, 0, 1e6
)  # first train this many epochs on the source alone (then: direct transfer)
KEYS.SCALE = number(10.0, 0.001, 10000.0)  # inverse temperature of the softmax over the memory
KEYS.EPS = number(0.8, 0, 1)  # neighbours are the rows above EPS times the largest similarity
KEYS.NEIGHBOR_MODE = choice("camera_aware", "camera_agnostic")
KEYS.INTRA_WEIGHT = number(1.0, 0, 1000)  # of the intra-camera loss
KEYS.INTRA_START = number(11, 1, 1e6)  # first epoch of the intra-camera loss
KEYS.INTER_WEIGHT = number(0.5, 0, 1000)  # of the inter-camera loss
KEYS.INTER_START = number(31, 1, 1e6)  # first epoch of the inter-camera loss
KEYS.AGNOSTIC_WEIGHT = number(0.1, 0, 1000)  # of the camera-agnostic loss
KEYS.AGNOSTIC_START = number(11, 1, 1e6)  # first epoch of the camera-agnostic loss
KEYS.MIXUP = flag(True)  # cross-domain mixup
KEYS.MIXUP_ALPHA = number(0.6, 0.001, 1000)  # lambda ~ Beta(ALPHA, ALPHA)
KEYS.MIXUP_START = number(2, 1, 1e6)  # first epoch of the mixup
KEYS.KEEP = number(0.6, 0, 1)  # share of a memory row that an update keeps; 0 in epoch 1
KEYS.MEMORY_DTYPE = choice("float32", "float16")  # float16 halves the memory: similarities 5e-4 off
KEYS.MEMORY_INIT = choice(
    "first", "pass"
)  # first: rows take the first feature in epoch 1 | pass: filled before


def check(cfg: CfgNode) -> None:
    """What the keys ask of each other."""
    one_source(cfg)
    source_and_target(cfg, "CAMERA_AWARE")
