"""The diagrams of a page about a run: titles and SVGs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch.nn import functional as F

from crossreid.engine.deploy import plots
from crossreid.engine.deploy.calibration import RATES, Calibration, calibrate
from crossreid.engine.deploy.pair_truth import from_labels, labelled
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.retrieval import Features, Retrieval

POINTS = 600  # of the embedding map


def curves(history: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Losses and target scores over steps, each group that has numbers."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for line in history:
        for name, value in line.items():
            if isinstance(value, (int, float)) and math.isfinite(value) and "/" in name:
                x, y = series.setdefault(name, ([], []))
                x.append(line["step"])
                y.append(value)
    skipped = ("train/lr", "train/images_per_second")
    losses = {
        k.removeprefix("train/"): v for k, v in series.items() if k.startswith("train/") and k not in skipped
    }
    scores = {k.removeprefix("target/"): v for k, v in series.items() if k.startswith("target/")}
    groups = (("Losses", losses, "loss"), ("Scores of the target", scores, "fraction"))
    return [(title, plots.svg(plots.curves(lines, "step", unit))) for title, lines, unit in groups if lines]


def _thresholds(query: Features, gallery: Features) -> Calibration | None:
    """Thresholds from all pairs of query and gallery photos, or None where they show none."""
    vectors, pids, cams = labelled(query, gallery)
    try:
        return calibrate(vectors, from_labels(pids, cams), (1e-1, *RATES))
    except InputError:
        return None


def figures(query: Features, gallery: Features, result: Retrieval) -> list[tuple[str, str]]:
    """CMC, ROC, the table of camera pairs and the histogram of similarities, titles and SVGs."""
    calibration = _thresholds(query, gallery)
    drawn = [
        (
            "CMC",
            plots.curves(
                {"matched within the first ranks": (list(result.ranks), result.cmc.tolist())},
                "rank",
                "share of queries",
            ),
        ),
    ]
    if result.roc is not None:
        made = plots.curves(
            {"true positive rate": (list(result.roc), list(result.roc.values()))},
            "false positive rate",
            "true positive rate",
        )
        made.axes[0].set_xscale("log")
        drawn.append(("ROC", made))
    if (pairs := result.camera_pairs) is not None:
        names = [[f"c{int(c)}" for c in cams] for cams in (pairs.query_cams, pairs.gallery_cams)]
        drawn.append(("mAP by camera pair (%)", plots.heat_map(pairs.mAP.numpy(), *names)))
    if calibration is not None:
        title = "Similarities, and thresholds by false match rate: " + ", ".join(
            f"{t.threshold:.3f} at {t.rate:g}" for t in calibration.thresholds
        )
        drawn.append((title, plots.histograms(calibration)))
    return [(title, plots.svg(made)) for title, made in drawn]


def embedding_maps(query: Features, gallery: Features, known: bool) -> list[tuple[str, str]]:
    """t-SNE of at most 600 photos, coloured by camera and, where known, by identity."""
    from sklearn.manifold import TSNE

    if known:
        vectors, pids, cams = labelled(query, gallery)
        people = np.unique(pids)  # whole identities, so that their photos can be seen together
        people = people[np.linspace(0, len(people) - 1, min(20, len(people))).astype(int)]
        good = np.flatnonzero(np.isin(pids, people))
    else:
        vectors, pids, cams = (
            F.normalize(query.vectors.float()).numpy(),
            query.pids.numpy(),
            query.cams.numpy(),
        )
        good = np.arange(len(vectors))
    good = good[np.unique(np.linspace(0, len(good) - 1, min(POINTS, len(good))).astype(int))]
    if len(good) < 5:
        return []
    made = TSNE(
        perplexity=min(30, (len(good) - 1) / 3), init="pca", random_state=0, metric="cosine"
    ).fit_transform(vectors[good])
    maps = [("Embedding map by camera", plots.scatter(made, cams[good], ""))]
    if known:
        maps.append(("Embedding map by identity (20 at most)", plots.scatter(made, pids[good], "")))
    return [(title, plots.svg(drawn)) for title, drawn in maps]
