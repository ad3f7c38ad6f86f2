"""Overrides that make any YAML a run of seconds on tiny built-in domains."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch

from crossreid import configs
from crossreid.engine.distributed import Ranks
from crossreid.engine.training.trainer import run

CPU = Ranks(0, 1, torch.device("cpu"))


def overrides(root: Path, out: Path, *more: str) -> list[str]:
    """KEY VALUE pairs: 8 identities, 3 cameras, 32x16 pixels, 2 epochs of 3 steps, no ImageNet weights."""
    pairs: dict[str, Any] = {
        "DATASETS.ROOT": root,
        "DATASETS.SYNTHETIC.IDENTITIES": 8,
        "DATASETS.SYNTHETIC.TEST_IDENTITIES": 4,
        "DATASETS.SYNTHETIC.CAMERAS": 3,
        "DATASETS.SYNTHETIC.SIZE": "[64, 32]",
        "DATASETS.CACHE": "disk",
        "DATASETS.CACHE_DIR": root / "cache",
        "INPUT.SIZE": "[32, 16]",
        "INPUT.PAD": 2,
        "MODEL.PRETRAINED": "none",
        "DATALOADER.BATCH_SIZE": 16,
        "DATALOADER.ITERS_PER_EPOCH": 3,
        "SOLVER.EPOCHS": 2,
        "SOLVER.STEPS": "[1]",
        "SOLVER.AMP": "float32",
        "OUTPUT_DIR": out,
        "TEST.PERIOD": 1,
        "TEST.AT_START": "false",
        "LOG.TENSORBOARD": "false",
        "TEST.CRITERIA": "false",
        "LOG.RANK_LIST": 0,
    }
    return [str(item) for pair in pairs.items() for item in pair] + list(more)


def train(config: str, arguments: list[str], ranks: Ranks = CPU) -> str:
    """Run a training in this process; returns what it told."""
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen):
        run(configs.load(config, arguments), ranks)
    return screen.getvalue()


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """The places where two checkpoints differ in any bit."""
    if isinstance(first, torch.Tensor):
        same = first.dtype == second.dtype and first.shape == second.shape and torch.equal(first, second)
        return [] if same else [where]
    if isinstance(first, dict):
        keys = sorted(set(first) | set(second), key=str)
        return [d for k in keys for d in _either(first, second, k, f"{where}.{k}")]
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return [where]
        return [d for i, (a, b) in enumerate(zip(first, second)) for d in differences(a, b, f"{where}.{i}")]
    return [] if first == second else [where]


def _either(first: dict[Any, Any], second: dict[Any, Any], key: Any, where: str) -> list[str]:
    if key not in first or key not in second:
        return [where]
    return differences(first[key], second[key], where)
