"""Keys of METHOD camera_proxy: CAP (AAAI 2021) and O2CAP (TIP 2022), unsupervised."""

from __future__ import annotations

from yacs.config import CfgNode

from crossreid.configs.cluster_keys import cluster_keys
from crossreid.configs.errors import ConfigError
from crossreid.configs.schema import Section, number
from crossreid.configs.shared_checks import clustering

SECTION = "CAMERA_PROXY"
KEYS = Section()
KEYS.TEMPERATURE = number(0.07, 0.0001, 100)  # of the softmax over the proxies
KEYS.KEEP = number(0.2, 0, 1)  # share of a proxy that an update keeps
KEYS.INTRA_WEIGHT = number(0.0, 0, 1000)  # of the intra-camera term; CAP: 1
KEYS.OFFLINE_WEIGHT = number(1.0, 0, 1000)  # of the term over the own cluster's proxies; CAP: 0.5
KEYS.OFFLINE_START = number(1, 1, 1e6)  # its first epoch; CAP: 6
KEYS.ONLINE_WEIGHT = number(1.0, 0, 1000)  # of the term over the best proxies of the cameras; CAP: 0
KEYS.ONLINE_START = number(1, 1, 1e6)  # its first epoch
KEYS.NEGATIVES = number(50, 1, 1e6)  # most similar other proxies that a softmax holds
KEYS.POSITIVES = number(3, 1, 1e4)  # online: best proxies of different cameras
KEYS.BALANCE = number(
    0.15, 0, 1
)  # online: the image's weight in a proxy's score, the rest is its own proxy's
KEYS.CLUSTER = cluster_keys(k1=20, eps=0.5)  # of the target's images, before every epoch


def check(cfg: CfgNode) -> None:
    """What the keys ask of each other."""
    settings = cfg.CAMERA_PROXY
    clustering(cfg)
    if cfg.DATASETS.SOURCES:
        raise ConfigError(
            f"METHOD camera_proxy trains on the target alone, DATASETS.SOURCES names {cfg.DATASETS.SOURCES}: set it to "
            "[]; weights of a source model enter by MODEL.WEIGHTS"
        )
    starts = [
        start
        for weight, start in (
            (settings.INTRA_WEIGHT, 1),
            (settings.OFFLINE_WEIGHT, settings.OFFLINE_START),
            (settings.ONLINE_WEIGHT, settings.ONLINE_START),
        )
        if weight
    ]
    if 1 not in starts:
        raise ConfigError(
            "METHOD camera_proxy has nothing to train with in epoch 1: give one of CAMERA_PROXY.INTRA_WEIGHT, "
            "OFFLINE_WEIGHT (OFFLINE_START 1) and ONLINE_WEIGHT (ONLINE_START 1)"
        )
