"""What a report is about: a run's logs and last checkpoint, or the features of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from yacs.config import CfgNode

from crossreid import configs
from crossreid.datasets.splits import Split, Splits
from crossreid.engine.augmentation import plain_transform
from crossreid.engine.deploy.network import load_extractor
from crossreid.engine.deploy.report_figures import POINTS
from crossreid.engine.deploy.report_page import Subject, read_history
from crossreid.engine.distributed import Ranks, parse_devices
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.extraction import extract, extract_query_gallery
from crossreid.engine.evaluation.report import load_features
from crossreid.engine.evaluation.retrieval import Features
from crossreid.engine.optim import Precision
from crossreid.engine.reading import build_target_evaluation, images_of, read

FOREIGN = "the config that it was made with is not beside it"


def subject_of(source: Path, device: str, overrides: list[str]) -> Subject:
    """The subject of a report.

    Args:
        source: logs/NAME, a checkpoint, or a *-query.npz of ``eval.py``.
        device: cpu, or a GPU's id.
        overrides: KEY VALUE pairs.

    Raises:
        InputError: none of the three, or what belongs to it is missing.
    """
    if source.suffix == ".npz":
        return _of_features(source, overrides)
    if source.is_dir():
        logs = source
        checkpoint = logs.parent.parent / "checkpoints" / logs.name / "last.pt"
        if not (logs / "config.yml").is_file():
            raise InputError(
                f"{logs}: no run there (no config.yml): give logs/NAME, a checkpoint or a *-query.npz"
            )
    elif source.is_file():
        checkpoint, logs = source, source.parent.parent.parent / "logs" / source.parent.name
    else:
        raise InputError(f"{source}: no such run: give logs/NAME, a checkpoint or a *-query.npz of eval.py")
    history = read_history(logs / "metrics.jsonl")
    if not checkpoint.is_file():
        cfg = _restored(logs / "config.yml", overrides)
        return Subject(f"Run {cfg.NAME}", cfg, history)
    cfg, network = load_extractor(checkpoint, None, overrides)
    return subject_of_network(cfg, network, history, parse_devices(device)[0])


def _of_features(source: Path, overrides: list[str]) -> Subject:
    run = source.stem.removesuffix("-query").removesuffix("-gallery")
    query, gallery = load_features(source.parent, run)
    saved = source.parent / f"{run}-config.yml"
    if not saved.is_file():
        raise InputError(f"{source}: {saved.name}, {FOREIGN}")
    cfg = _restored(saved, overrides)
    return Subject(f"{run} on {source.parent.name}", cfg, [], query, gallery)


def _restored(file: Path, overrides: list[str]) -> CfgNode:
    text = file.read_text(encoding="utf-8", errors="replace")
    return configs.restore(text, overrides, origin=str(file))[0]


def subject_of_network(
    cfg: CfgNode, network: nn.Module, history: list[dict[str, Any]], device: torch.device
) -> Subject:
    """A run by its network: features of query and gallery, or of some training photos of a target without labels."""
    ranks = Ranks(0, 1, device)
    splits = read(cfg, cfg.DATASETS.TARGET, training=cfg.DATASETS.ADAPT)
    network.to(device).eval()
    target = build_target_evaluation(cfg)
    if target is not None:
        query, gallery = extract_query_gallery(cfg, network, target, ranks)
    else:
        split = splits.need_training()
        rows = np.unique(np.linspace(0, len(split) - 1, min(POINTS, len(split))).astype(np.int64))
        images = images_of(cfg, split.unlabelled().take(rows))
        query = extract(network, images, plain_transform(cfg), ranks, Precision("float32", device))
        query.pids.fill_(-1)
        gallery = query
    return subject(cfg, history, query, gallery, network, splits)


def subject(
    cfg: CfgNode,
    history: list[dict[str, Any]],
    query: Features | None,
    gallery: Features | None,
    network: nn.Module | None,
    splits: Splits,
) -> Subject:
    """A run's subject, with the sheet of its target."""
    parts: dict[str, Split | None] = {"train": splits.train, "query": splits.query, "gallery": splits.gallery}
    sheet = tuple(
        (name, len(split), len(np.unique(split.pids[split.pids >= 0])), split.num_cameras)
        for name, split in parts.items()
        if split is not None and len(split)
    )
    title = f"Run {cfg.NAME}: {cfg.METHOD} on {cfg.DATASETS.TARGET}"
    return Subject(title, cfg, history, query, gallery, network, sheet)
