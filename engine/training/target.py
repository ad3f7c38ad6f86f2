"""Evaluation on the target during training, what it has said so far, and the table at the end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from torch import nn
from yacs.config import CfgNode

from crossreid.engine.data import Data
from crossreid.engine.distributed import on_first
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation import criteria
from crossreid.engine.evaluation.camera_norm import normalize_sets
from crossreid.engine.evaluation.clusters import ClusterOptions
from crossreid.engine.evaluation.criteria import COUNTS, CRITERIA
from crossreid.engine.evaluation.extraction import extract_query_gallery, extract_split
from crossreid.engine.evaluation.options import RetrievalOptions
from crossreid.engine.evaluation.ranklist import draw_rank_list
from crossreid.engine.evaluation.report import percent, write_metrics
from crossreid.engine.evaluation.retrieval import Features, Retrieval, evaluate
from crossreid.engine.fitting import history_misfit
from crossreid.engine.log import LOGGER
from crossreid.engine.reading import Evaluation
from crossreid.engine.recorder import Recorder
from crossreid.modeling.side_information import camera_rows

SOURCE_IMAGES = 2000  # of whole identities, that judge a clustering by the source's labels


@dataclass
class EvaluationHistory:
    """All evaluations of a run, the best mAP and the best criterion; part of every checkpoint.

    Args:
        clusters: [N] of the target's training images at the last evaluation, for the criterion ``stability``.
    """

    best: float = -1.0
    history: list[dict[str, Any]] = field(default_factory=list)
    selected: dict[str, float] = field(default_factory=dict)  # criterion -> its highest value
    clusters: torch.Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        known = {"best": self.best, "history": list(self.history)}
        if self.clusters is not None:
            known |= {"selected": dict(self.selected), "clusters": self.clusters}
        return known

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raise ValueError for what no evaluation has written."""
        if found := history_misfit(state):
            raise ValueError(found)
        self.best, self.history = state["best"], list(state["history"])
        self.selected, self.clusters = dict(state.get("selected", {})), state.get("clusters")


class TargetEvaluation:
    """An ignite handler that scores the target and keeps the history.

    Args:
        extractor: the bare network.
        target: query and gallery; None where the target has no labels and nothing is scored.
        data: of the training; the criteria judge the target's images in it.
        progress: restored with the run.
    """

    def __init__(
        self,
        cfg: CfgNode,
        extractor: nn.Module,
        target: Evaluation | None,
        data: Data,
        recorder: Recorder,
        progress: EvaluationHistory,
    ) -> None:
        self.cfg, self.extractor, self.target = cfg, extractor, target
        self.data, self.ranks = data, data.ranks
        self.recorder, self.progress = recorder, progress
        self.options = RetrievalOptions.of(cfg.TEST)
        self.features: tuple[Features, Features] | None = None
        for images in [] if target is None else [target.query, target.gallery]:  # before the first step
            camera_rows(extractor, images.split.dataset, images.split.cams)

    def score(self, engine: Engine, title: str) -> tuple[str, ...]:
        """Evaluate on all ranks; the checkpoints for which no trained state was better before."""
        values = self._judge(engine.state.epoch) | self._retrieve(engine.state.epoch, title)
        if not values:
            return ()
        self.progress.history.append({"epoch": engine.state.epoch, "title": title, **values})
        known = {
            f"{'criteria' if key in CRITERIA + COUNTS else 'target'}/{key}": value
            for key, value in values.items()
            if math.isfinite(value)
        }
        self.recorder.add(engine.state.iteration, known, title=title, epoch=engine.state.epoch)
        chosen = []
        if engine.state.epoch and values.get("mAP", math.nan) > self.progress.best:  # NaN is never the best
            self.progress.best = values["mAP"]
            chosen.append("best.pt")
        select, highest = self.cfg.CHECKPOINT.SELECT, self.progress.selected
        if engine.state.epoch and values.get(select, math.nan) > highest.get(select, -math.inf):
            highest[select] = values[select]
            chosen.append("selected.pt")
        return tuple(chosen)

    def _judge(self, epoch: int) -> dict[str, float]:
        """Label-free criteria of the target's training images, where a run trains on them."""
        if not self.cfg.TEST.CRITERIA or "target" not in self.data.domains:
            return {}
        images, ranks = self.data.domains["target"].images, self.ranks
        features = extract_split(self.cfg, self.extractor, images, self.data.plain, ranks, "target images")
        before = self.progress.clusters
        values, clusters = criteria.report(
            features.vectors, images.split.cams, ClusterOptions.of(self.cfg.TEST), before=before, ranks=ranks
        )
        self.progress.clusters = torch.from_numpy(clusters)
        values["source_guided"] = self._source_guided()
        LOGGER.info(
            "criteria (epoch %d): %d clusters of %s %% of %d images  %s", epoch, values["clusters"],
            percent(values["clustered"]), len(clusters),
            "  ".join(f"{name} {values[name]:.3f}" for name in CRITERIA if math.isfinite(values[name])),
        )  # fmt: skip
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def _source_guided(self) -> float:
        """How well the source's identities are found by the clustering of the target; NaN without one source."""
        source = self.data.domains.get("source")
        if source is None:
            return math.nan
        options, images = ClusterOptions.of(self.cfg.TEST), source.images
        rows = criteria.whole_identities(images.split.pids, SOURCE_IMAGES)
        found = extract_split(
            self.cfg, self.extractor, images, self.data.plain, self.ranks, "source images", rows=rows
        )
        if not criteria.can_cluster(found.cams, options):
            return math.nan

        def judge() -> float:
            scores = criteria.source_guided(
                found.vectors, found.pids, eps=[options.eps], cameras=found.cams, options=options
            )
            return scores[options.eps]

        return on_first(self.ranks, judge)

    def _retrieve(self, epoch: int, title: str) -> dict[str, float]:
        """Scores of the target's query and gallery, where they have labels."""
        if self.target is None:
            return {}
        query, gallery = self.features = extract_query_gallery(
            self.cfg, self.extractor, self.target, self.ranks
        )
        result = evaluate(
            query, gallery, self.options, device=self.ranks.device, distributed=self.ranks.world > 1
        )
        values = {"mAP": float(result.mAP), "mINP": float(result.mINP)}
        values |= {f"rank{r}": float(c) for r, c in zip(result.ranks, result.cmc)}
        self._tell(epoch, title, result)
        if self.recorder.folder is not None:
            file = self.recorder.folder / "metrics.json"  # of this run's last evaluation alone
            about = {"dataset": self.target.name, "epoch": epoch, "title": title}
            try:
                write_metrics(file, self.cfg.NAME, {"plain": result}, **about, metric=self.options.metric)
            except InputError as error:  # a full disk: the run goes on
                LOGGER.warning("%s", error)
        return values

    @property
    def result_file(self) -> str:
        """The checkpoint that is the run's result, by ``CHECKPOINT.SELECT``."""
        return {"last": "last.pt", "oracle": "best.pt"}.get(self.cfg.CHECKPOINT.SELECT, "selected.pt")

    def _tell(self, epoch: int, title: str, result: Retrieval) -> None:
        cmc = "  ".join(f"Rank-{r} {percent(float(c))}" for r, c in zip(result.ranks, result.cmc))
        LOGGER.info(
            "%s (epoch %d): %s  mAP %s  %s  [%s AP%s; %d of %d queries have a match]",
            title, epoch, self.cfg.DATASETS.TARGET, percent(float(result.mAP)), cmc, result.ap,
            ", normalised by camera" if result.camera_norm else "",
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
        features = normalize_sets(*self.features) if self.options.camera_norm else self.features
        try:
            draw_rank_list(path, *features, queries=self.cfg.LOG.RANK_LIST)
        except OSError as error:  # a full disk, or an image that is gone
            LOGGER.warning("no rank list: %s", error)
            return False
        return True
