"""Weights & Biases and MLflow beside our own files, through ignite's loggers (``LOG.TRACKERS``)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from crossreid.configs.loading import values_of

PROJECT = "crossreid"
LONGEST = 500  # characters of a parameter that MLflow takes


class Trackers:
    """Sends a run's numbers to the services that are named; the environment says where (WANDB_MODE,
    MLFLOW_TRACKING_URI, ...).

    A resumed run goes on under the identity that its folder keeps in ``trackers.json``.

    Args:
        names: of ``wandb`` and ``mlflow``.
        folder: of the run's logs.
        resumed: go on with the run that the folder's file names.
    """

    def __init__(self, names: Sequence[str], cfg: CfgNode, folder: Path, *, resumed: bool) -> None:
        self._loggers: dict[str, Any] = {}
        file = folder / "trackers.json"
        known = json.loads(file.read_text(encoding="utf-8")) if resumed and file.is_file() else {}
        settings = values_of(cfg)
        for name in names:
            start = {"wandb": _wandb, "mlflow": _mlflow}[name]
            self._loggers[name], known[name] = start(cfg.NAME, settings, folder, known.get(name))
        if names:
            file.write_text(json.dumps(known), encoding="utf-8")

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of a step."""
        for name, logger in self._loggers.items():
            if name == "wandb":
                logger.log(dict(values), step=step)
            else:
                logger.log_metrics(dict(values), step=step)

    def close(self) -> None:
        for logger in self._loggers.values():
            logger.close()


def _wandb(name: str, settings: Mapping[str, Any], folder: Path, identity: str | None) -> tuple[Any, str]:
    from ignite.handlers.wandb_logger import WandBLogger

    identity = identity or uuid.uuid4().hex[:8]
    logger = WandBLogger(
        project=PROJECT, name=name, id=identity, resume="allow", dir=str(folder), config=dict(settings)
    )
    return logger, identity


def _mlflow(name: str, settings: Mapping[str, Any], folder: Path, identity: str | None) -> tuple[Any, str]:
    import mlflow
    from ignite.handlers.mlflow_logger import MLflowLogger

    mlflow.set_experiment(PROJECT)
    mlflow.start_run(run_id=identity) if identity else mlflow.start_run(run_name=name)
    logger = MLflowLogger()  # takes the run that is active
    if identity is None:
        logger.log_params({key: str(value)[:LONGEST] for key, value in settings.items()})
    return logger, str(logger.active_run.info.run_id)
