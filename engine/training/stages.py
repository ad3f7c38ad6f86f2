"""Stages in one command: the run that ``FIRST_STAGE`` names is trained first where its result is missing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from crossreid import configs
from crossreid.configs.overrides import pairs
from crossreid.datasets.files import locked
from crossreid.engine.checkpoint import check_format, find_resume
from crossreid.engine.distributed import read_nodes
from crossreid.engine.errors import InputError
from crossreid.engine.identity import check_same_run
from crossreid.engine.log import LOGGER
from crossreid.modeling.weights import read_checkpoint

CARRIED = (  # what an override of the last stage says of the machine and its data holds for the first, too
    "OUTPUT_DIR", "DATASETS.ROOT", "DATASETS.CACHE", "DATASETS.SYNTHETIC", "DATALOADER.WORKERS",
)  # fmt: skip


def run_stages(cfg: CfgNode, overrides: list[str], start: Callable[[CfgNode], int]) -> int:
    """Train a run after the runs that its ``FIRST_STAGE`` names, and theirs; the exit code of the last one started.

    A first stage that is complete is used as it is, an interrupted one goes on. ``MODEL.WEIGHTS``, and a checkpoint to
    resume, make it unnecessary.

    Args:
        overrides: of the command line; those of the machine and the data hold for all stages.
        start: trains one run; its exit code.

    Raises:
        ConfigError: the YAML of a first stage is wrong, before anything starts.
        InputError: stages that need each other; a result that is there from another config, with the keys.
    """
    stages = _plan(cfg, overrides)
    for stage, following in pairwise(stages):
        with locked(_lock(stage)):
            if not _complete(stage):
                if read_nodes(os.environ).count > 1:
                    raise InputError(
                        f"FIRST_STAGE: {_result(stage)} is missing, and several machines do not train two stages in "
                        f"one command: train {following.FIRST_STAGE} first"
                    )
                if code := start(stage):
                    return code
        LOGGER.info("first stage %s: %s", stage.NAME, _result(stage))
    return start(stages[-1])


def _plan(cfg: CfgNode, overrides: list[str]) -> list[CfgNode]:
    """The runs in their order, each with the weights of the one before it."""
    given = [(key, value) for key, value in pairs(overrides) if key.upper().startswith(CARRIED)]
    carried = [text for key, value in given for text in (key, json.dumps(value))]
    stages, seen = [cfg], list[Path]()
    while _needed(stages[0]):
        path = Path(stages[0].FIRST_STAGE)
        if path.resolve() in seen:
            names = " -> ".join(file.name for file in [*seen, path])
            raise InputError(f"FIRST_STAGE: these runs need each other: {names}")
        seen.append(path.resolve())
        first = configs.load(path, [*carried, "RESUME", "auto"])
        stages[0] = _changed(stages[0], WEIGHTS=str(_result(first)))
        stages.insert(0, first)
    return stages


def _needed(stage: CfgNode) -> bool:
    if not stage.FIRST_STAGE or stage.MODEL.WEIGHTS:
        return False
    return find_resume(stage.RESUME, Path(stage.OUTPUT_DIR) / "checkpoints" / stage.NAME) is None


def _changed(cfg: CfgNode, **model: str) -> CfgNode:
    changed = cfg.clone()
    changed.defrost()
    changed.MODEL.update(model)
    changed.freeze()
    return changed


def _result(stage: CfgNode) -> Path:
    return Path(stage.OUTPUT_DIR) / "checkpoints" / stage.NAME / "last.pt"


def _complete(stage: CfgNode) -> bool:
    """Whether the stage has trained all its epochs; one of another config is an error."""
    path = _result(stage)
    if not path.is_file():
        return False
    content, origin = read_checkpoint(path), f"FIRST_STAGE {stage.NAME}: {path}"
    check_format(content, origin)
    engine = content.get("engine")
    counts: dict[str, Any] = engine if isinstance(engine, dict) else {}
    steps, length = counts.get("iteration"), counts.get("epoch_length")
    whole = isinstance(steps, int) and isinstance(length, int) and length > 0
    if not whole or not isinstance(content.get("config"), str):
        raise InputError(f"{origin}: this is not the last.pt of a training run, or it is damaged")
    done = int(counts["iteration"]) // int(counts["epoch_length"])
    check_same_run(configs.restore(content["config"], origin=origin)[0], stage, done, origin)
    return done >= int(stage.SOLVER.EPOCHS)


def _lock(stage: CfgNode) -> Path:
    """Held by the one of several runs that trains the same first stage."""
    folder = Path(stage.OUTPUT_DIR) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f".{stage.NAME}.lock"
