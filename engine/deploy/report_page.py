"""A run or an evaluation as one self-contained HTML page."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from yacs.config import CfgNode

from crossreid.datasets.files import draft
from crossreid.engine.deploy.activation import activation_maps
from crossreid.engine.deploy.render import data_url
from crossreid.engine.deploy.report_figures import curves, embedding_maps, figures
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.ranklist import Ranked, rank
from crossreid.engine.evaluation.retrieval import Features, Retrieval, evaluate
from crossreid.engine.extras import need

TEMPLATE = Path(__file__).with_name("report.html")
ROC_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
CURVE = 50  # ranks of the CMC curve
QUERIES = 4  # of each kind: best, median, worst
TOP = 8
TILE = (64, 128)


@dataclass(frozen=True)
class Subject:
    """What a page is about; whatever is None is left out.

    Args:
        title: of the page.
        cfg: the resolved config.
        history: lines of ``metrics.jsonl``.
        query, gallery: features with paths; without identities (-1) both are the same photos.
        network: for activation maps, with its normalised images made by ``pixels``.
        sheet: rows of the dataset sheet: part, images, identities, cameras.
    """

    title: str
    cfg: CfgNode
    history: list[dict[str, Any]]
    query: Features | None = None
    gallery: Features | None = None
    network: nn.Module | None = None
    sheet: tuple[tuple[str, int, int, int], ...] = ()


def write_report(path: Path, subject: Subject) -> Path:
    """Write the page, whole or not at all.

    Raises:
        InputError: a missing package, a photo that is gone, a folder that cannot be written.
    """
    need("a report", "report")
    from jinja2 import Environment, StrictUndefined

    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    try:
        values = contents(subject)
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft(path) as partial:
            partial.write_text(page.render(**values), encoding="utf-8")
    except OSError as error:
        raise InputError(f"the report {path} cannot be written ({error})") from None
    return path


def contents(subject: Subject) -> dict[str, Any]:
    """Everything that the template shows."""
    query, gallery = subject.query, subject.gallery
    values: dict[str, Any] = {
        "title": subject.title,
        "curves": curves(subject.history),
        "sheet": subject.sheet or _sheet(query, gallery),
        "config": subject.cfg.dump(),
        "environment": _environment(),
        "scores": [],
        "figures": [],
        "lists": [],
        "maps": [],
    }
    if query is None or gallery is None or not len(query) or not len(gallery):
        return values
    known = bool((query.pids >= 0).any())
    if known:
        result = evaluate(
            query, gallery, ap=subject.cfg.TEST.AP, ranks=range(1, CURVE + 1), metric=subject.cfg.TEST.METRIC,
            camera_pairs=True, roc=ROC_RATES,
        )  # fmt: skip
        values["scores"] = _scores(result)
        values["figures"] = figures(query, gallery, result)
        values["lists"] = _lists(query, gallery, result.per_query_ap.numpy())
    else:
        rows = np.unique(np.linspace(0, len(query) - 1, QUERIES).astype(int))
        values["lists"] = [
            ("Photos and their nearest", _tiles(query, gallery, rank(query, gallery, rows, top=TOP)))
        ]
    values["figures"] += embedding_maps(query, gallery, known)
    if subject.network is not None:
        values["maps"] = _maps(subject, query, gallery)
    return values


def _scores(result: Retrieval) -> list[tuple[str, str]]:
    cmc = result.cmc.tolist()
    numbers = {"mAP": result.mAP, "Rank-1": cmc[0], "Rank-5": cmc[4], "Rank-10": cmc[9], "mINP": result.mINP}
    shown = [(name, f"{100 * value:.1f}" if math.isfinite(value) else "-") for name, value in numbers.items()]
    queries = len(result.per_query_ap)
    return [*shown, ("queries with a match", f"{queries - result.skipped:,} of {queries:,}")]


def _lists(query: Features, gallery: Features, ap: np.ndarray) -> list[tuple[str, list[dict[str, Any]]]]:
    """Best, median and worst queries with their nearest images."""
    order = np.argsort(-ap, kind="stable")[: int(np.isfinite(ap).sum())]
    if not len(order):
        return []
    middle = max(0, len(order) // 2 - QUERIES // 2)
    kinds = {
        "Best queries": order[:QUERIES],
        "Median queries": order[middle : middle + QUERIES],
        "Worst queries": order[::-1][:QUERIES],
    }
    return [
        (title, _tiles(query, gallery, rank(query, gallery, rows.copy(), top=TOP), ap))
        for title, rows in kinds.items()
    ]


def _tiles(
    query: Features, gallery: Features, lists: list[Ranked], ap: np.ndarray | None = None
) -> list[dict[str, Any]]:
    assert query.paths is not None
    assert gallery.paths is not None
    rows = []
    for found in lists:
        score = "" if ap is None else f"AP {100 * ap[found.query]:.0f}"
        hits = [
            {
                "image": data_url(gallery.paths[row], TILE),
                "words": f"c{int(gallery.cams[row])} {value:.2f}",
                "kind": {True: "right", False: "wrong", None: "unknown"}[right],
            }
            for row, value, right in zip(found.gallery, found.scores, found.right)
        ]
        own = {
            "image": data_url(query.paths[found.query], TILE),
            "words": f"c{int(query.cams[found.query])} {score}",
        }
        rows.append({"query": own, "hits": hits})
    return rows


def _maps(subject: Subject, query: Features, gallery: Features) -> list[list[dict[str, str]]]:
    """Where the network looks, for some queries and their best hits."""
    assert query.paths is not None
    assert gallery.paths is not None
    assert subject.network is not None
    rows = np.unique(np.linspace(0, len(query) - 1, QUERIES).astype(int))
    result = []
    for found in rank(query, gallery, rows, top=3):
        paths = [query.paths[found.query], *(gallery.paths[row] for row in found.gallery)]
        pictures = activation_maps(subject.network, paths, subject.cfg)
        result.append([{"image": data_url(path, TILE), "map": shown} for path, shown in zip(paths, pictures)])
    return result


def _sheet(query: Features | None, gallery: Features | None) -> tuple[tuple[str, int, int, int], ...]:
    rows = []
    for name, part in (("query", query), ("gallery", gallery)):
        if part is not None:
            pids = part.pids[part.pids >= 0]
            rows.append((name, len(part), len(pids.unique()), len(part.cams.unique())))
    return tuple(rows)


def _environment() -> Mapping[str, str]:
    import torchvision

    import crossreid

    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    return {
        "crossreid": crossreid.__version__,
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "torchvision": torchvision.__version__,
        "NumPy": np.__version__,
        "system": platform.platform(),
        "device": device,
    }


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; none where it is not there.

    Raises:
        InputError: it is damaged.
    """
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error})") from None
