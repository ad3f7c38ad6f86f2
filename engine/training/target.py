"""Evaluation on the target during training, what it has said so far, and the table at the end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from torch import nn
from yacs.config import CfgNode

from crossreid.engine.data import Evaluation
from crossreid.engine.distributed import Ranks
from crossreid.engine.evaluation.extraction import extract_query_gallery
from crossreid.engine.evaluation.options import RetrievalOptions
from crossreid.engine.evaluation.ranklist import draw_rank_list
from crossreid.engine.evaluation.report import percent
from crossreid.engine.evaluation.retrieval import Features, Retrieval, evaluate
from crossreid.engine.log import LOGGER, Recorder


@dataclass
class EvaluationHistory:
    """All evaluations of a run and the best mAP; part of every checkpoint."""

    best: float = -1.0
    history: list[dict[str, Any]] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "history": list(self.history)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.history = state["best"], list(state["history"])


class TargetEvaluation:
    """An ignite handler that scores the target and keeps the history.

    Args:
        extractor: the bare network.
        target: query and gallery; None where the target has no labels and nothing is scored.
        progress: restored with the run.
    """

    def __init__(
        self,
        cfg: CfgNode,
        extractor: nn.Module,
        target: Evaluation | None,
        ranks: Ranks,
        recorder: Recorder,
        progress: EvaluationHistory,
    ) -> None:
        self.cfg, self.extractor, self.target = cfg, extractor, target
        self.ranks, self.recorder, self.progress = ranks, recorder, progress
        self.options = RetrievalOptions.of(cfg.TEST)
        self.features: tuple[Features, Features] | None = None

    def score(self, engine: Engine, title: str) -> bool:
        """Evaluate on all ranks; True if no trained state was better before, False without labels."""
        if self.target is None:
            return False
        query, gallery = self.features = extract_query_gallery(
            self.cfg, self.extractor, self.target, self.ranks
        )
        result = evaluate(
            query, gallery, self.options, device=self.ranks.device, distributed=self.ranks.world > 1
        )
        values = {"mAP": float(result.mAP), "mINP": float(result.mINP)}
        values |= {f"rank{r}": float(c) for r, c in zip(result.ranks, result.cmc)}
        known = {f"target/{key}": value for key, value in values.items() if math.isfinite(value)}
        self.progress.history.append({"epoch": engine.state.epoch, "title": title, **values})
        self.recorder.add(engine.state.iteration, known, title=title)
        self._tell(engine.state.epoch, title, result)
        if engine.state.epoch == 0 or not result.mAP > self.progress.best:  # NaN is never the best
            return False
        self.progress.best = float(result.mAP)
        return True

    def _tell(self, epoch: int, title: str, result: Retrieval) -> None:
        cmc = "  ".join(f"Rank-{r} {percent(float(c))}" for r, c in zip(result.ranks, result.cmc))
        LOGGER.info(
            "%s (epoch %d): %s  mAP %s  %s  [%s AP; %d of %d queries have a match]",
            title, epoch, self.cfg.DATASETS.TARGET, percent(float(result.mAP)), cmc, result.ap,
            len(result.per_query_ap) - result.skipped, len(result.per_query_ap),
        )  # fmt: skip

    def table(self) -> str:
        """The evaluations of the run, one line each, the best marked."""
        if self.target is None:
            return f"{self.cfg.DATASETS.TARGET}: not evaluated, it has no query and gallery with identities"
        history, ranks = self.progress.history, self.options.ranks
        header = f"{self.target.name:<24}{'epoch':>6}{'mAP':>8}" + "".join(f"{f'Rank-{r}':>9}" for r in ranks)
        lines = [header, "-" * len(header)]
        for entry in history:
            numbers = f"{percent(entry['mAP']):>8}"
            numbers += "".join(f"{percent(entry.get(f'rank{r}', math.nan)):>9}" for r in ranks)
            star = "  best" if entry["epoch"] and entry["mAP"] == self.progress.best else ""
            lines.append(f"{entry['title']:<24}{entry['epoch']:6d}{numbers}{star}")
        return "\n".join([*lines, f"({self.options.ap} average precision, in percent)"])

    def draw(self, path: Path) -> bool:
        """Draw the rank list of the last evaluation (first rank); False where there is none."""
        if not (self.cfg.LOG.RANK_LIST and self.ranks.first and self.features):
            return False
        draw_rank_list(path, *self.features, queries=self.cfg.LOG.RANK_LIST)
        return True
