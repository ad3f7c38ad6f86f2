"""Adapting to one's own cameras: the config that suits a small set, and what can be said without identities."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from crossreid import configs
from crossreid.configs.overrides import pairs
from crossreid.engine.checkpoint import restored_config
from crossreid.engine.distributed import parse_devices
from crossreid.engine.errors import InputError
from crossreid.engine.reading import read
from crossreid.modeling.weights import read_checkpoint

EPOCHS = 16  # of adaptation from a checkpoint
STEPS = (20, 200)  # fewest and most of an epoch


def adapt_config(cameras: str, origin: str, devices: str, overrides: list[str]) -> CfgNode:
    """The config that adapts to unlabelled photos of cameras.

    From a YAML, its own schedule; from a checkpoint, its network and method with 16 epochs of adaptation. Epochs and
    batches follow the number of photos: an epoch is a pass over them, of 20 to 200 steps.

    Args:
        cameras: a folder with one folder of photos a camera, a CSV, or any dataset's name.
        origin: a YAML or a checkpoint.
        devices: as on the command line.
        overrides: KEY VALUE pairs, which have the last word.

    Raises:
        InputError: a method that does not adapt, or photos of one camera only.
        ConfigError, DatasetError, ModelError: see ``configs.load`` and ``datasets.load``.
    """
    target = _target(cameras)
    own = dict(pairs(overrides))
    base, text = _base(origin)
    name = Path(target.partition(":")[2] or target).stem
    wanted: dict[str, Any] = {
        "NAME": f"{name}-adapted",
        "DATASETS.TARGET": target,
        "DATASETS.ADAPT": True,
        "RESUME": "''",
    }
    if base.METHOD == "camera_aware" and text is not None:
        wanted |= {
            "CAMERA_AWARE.SOURCE_EPOCHS": 0,
            "CAMERA_AWARE.MEMORY_INIT": "pass",
            "CAMERA_AWARE.INTRA_START": 3,
            "CAMERA_AWARE.AGNOSTIC_START": 3,
            "CAMERA_AWARE.INTER_START": 8,
        }
    if text is not None:
        wanted |= {
            "MODEL.WEIGHTS": str(Path(origin).expanduser().resolve()),
            "DATASETS.ROOT": base.DATASETS.ROOT or "''",
            "SOLVER.EPOCHS": EPOCHS,
            "SOLVER.STEPS": [EPOCHS - 2],
            "SOLVER.WARMUP_EPOCHS": 0,
        }
    if parse_devices(devices)[0].type == "cpu" and base.SOLVER.AMP == "float16":
        wanted["SOLVER.AMP"] = "float32"
    cfg = _merged(origin, text, wanted, own)
    if cfg.MODEL.SIE:
        raise InputError(
            "MODEL.SIE true embeds the cameras of one dataset, and searches take photos of any: set it to false"
        )
    photos = read(cfg, cfg.DATASETS.TARGET).need_training()
    if photos.num_cameras < 2:
        raise InputError(
            f"{cameras}: {len(photos):,} photos of one camera only, nothing can be learned across cameras: give two "
            "folders or more"
        )
    return _merged(origin, text, wanted | _sizes(base, len(photos), len(cfg.DATASETS.SOURCES)), own)


def _target(cameras: str) -> str:
    path = Path(cameras).expanduser()
    if path.is_dir():
        return f"cameras:{path.resolve()}"
    if path.suffix.lower() == ".csv":
        return f"csv:{path.resolve()}"
    if ":" not in cameras and ("/" in cameras or path.exists()):
        raise InputError(
            f"{cameras}: no such folder or CSV: give a folder with one folder of photos a camera"
        )
    return cameras


def _base(origin: str) -> tuple[CfgNode, str | None]:
    """The config that a YAML or a checkpoint holds, and the latter's text."""
    if Path(origin).suffix.lower() in (".yml", ".yaml"):
        return configs.load(origin), None
    text = read_checkpoint(origin).get("config")
    if not isinstance(text, str):
        raise InputError(
            f"--from {origin} holds no config: give a YAML and its weights, --from CONFIG MODEL.WEIGHTS {origin}"
        )
    return restored_config(text, [], origin)[0], text


def _merged(origin: str, text: str | None, wanted: dict[str, Any], own: dict[str, Any]) -> CfgNode:
    values = {key: str(value) for key, value in (wanted | own).items()}
    words = [word for pair in values.items() for word in pair]
    return configs.load(origin, words) if text is None else configs.restore(text, words, origin)[0]


def _sizes(base: CfgNode, photos: int, sources: int) -> dict[str, Any]:
    """Batch and steps for a number of photos."""
    share = base.DATALOADER.BATCH_SIZE // (sources + 1)
    step = max(1, base.DATALOADER.INSTANCES)
    share = min(share, max(step, photos // 4 // step * step, 8 // step * step))
    steps = min(STEPS[1], max(STEPS[0], math.ceil(photos / share)))
    sizes: dict[str, Any] = {"DATALOADER.BATCH_SIZE": share * (sources + 1)}
    if not base.DATALOADER.ITERS_PER_EPOCH:
        sizes["DATALOADER.ITERS_PER_EPOCH"] = steps
    return sizes


def health(cfg: CfgNode, checkpoint: Path, device: str) -> dict[str, float]:
    """Label-free criteria of a checkpoint's vectors of the target's training photos; larger is better."""
    from crossreid.engine.deploy.embedder import Embedder
    from crossreid.engine.evaluation.criteria import report

    photos = read(cfg, cfg.DATASETS.TARGET).need_training()
    embedder = Embedder(checkpoint, device=None if device != "cpu" else "cpu")
    values, _ = report(torch.from_numpy(embedder(list(photos.paths))), np.asarray(photos.cams))
    return values
