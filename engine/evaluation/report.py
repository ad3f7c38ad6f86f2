"""Results for people and files: the table, ``metrics.json``, and features kept to be scored again."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.options import RetrievalOptions
from crossreid.engine.evaluation.rerank import evaluate_reranked
from crossreid.engine.evaluation.retrieval import CameraPairs, Features, Retrieval, evaluate
from crossreid.engine.files import remove_stale, write_together, write_whole
from crossreid.modeling.weights import first_line

PARTS = ("query", "gallery")


def score(
    query: Features,
    gallery: Features,
    options: RetrievalOptions | None = None,
    *,
    rerank: bool = False,
    **more: Any,
) -> dict[str, Retrieval]:
    """Score features, fresh or saved, as they are and, if asked for, re-ranked.

    Args:
        options: what is asked for; re-ranking normalises the features if the metric is ``cosine``.
        more: arguments of both evaluations (device, progress, keys of ``RetrievalOptions``).

    Returns:
        Results under ``plain`` and ``re-ranked``.
    """
    results = {"plain": evaluate(query, gallery, options, **more)}
    if rerank:
        metric = options.metric if options else more.get("metric", "cosine")
        results["re-ranked"] = evaluate_reranked(
            query, gallery, options, normalize=metric == "cosine", **more
        )
    return results


def table(results: Mapping[str, Retrieval], title: str = "") -> str:
    """One line a result, in percent; the last line names the average precision and the skipped queries."""
    some = next(iter(results.values()))
    width = max(12, len(title), *map(len, results)) + 2
    header = f"{title:<{width}}{'mAP':>8}" + "".join(f"{f'Rank-{r}':>9}" for r in some.ranks) + f"{'mINP':>8}"
    lines = [header, "-" * len(header)]
    for name, result in results.items():
        numbers = [f"{percent(result.mAP):>8}", *(f"{percent(float(c)):>9}" for c in result.cmc)]
        lines.append(f"{name:<{width}}{''.join(numbers)}{percent(result.mINP):>8}")
    queries = len(some.per_query_ap)
    lines.append(
        f"in percent; {some.ap} average precision; {queries - some.skipped} of {queries} queries have a match"
        + ("; features normalised by camera, with the gallery's statistics" if some.camera_norm else "")
    )
    for name, result in results.items():
        if result.roc is not None:
            scores = result.roc_scores or {}
            points = ", ".join(
                f"{percent(true)} at {false:g} (score > {scores.get(false, math.nan):.4f})"
                for false, true in result.roc.items()
            )
            lines.append(f"{name}: true positive rate at a false positive rate: {points}")
    return "\n".join(lines)


def camera_table(pairs: CameraPairs, ap: str) -> str:
    """Query cameras down, gallery cameras across: mAP / Rank-1 in percent and, below, the number of queries."""
    width = 15
    lines = [
        "query \\ gallery".ljust(17) + "".join(f"{f'camera {int(c)}':>{width}}" for c in pairs.gallery_cams)
    ]
    for row, camera in enumerate(pairs.query_cams.tolist()):
        cells = zip(pairs.mAP[row].tolist(), pairs.rank1[row].tolist(), pairs.queries[row].tolist())
        scores = [f"{percent(m)} / {percent(r)}" if n else "-" for m, r, n in cells]
        lines.append(f"{f'camera {camera}':<17}" + "".join(f"{s:>{width}}" for s in scores))
        lines.append(" " * 17 + "".join(f"{f'({int(n)})' if n else '':>{width}}" for n in pairs.queries[row]))
    return "\n".join([*lines, f"mAP / Rank-1 in percent (queries with a match); {ap} average precision"])


def percent(fraction: float) -> str:
    """A fraction in percent; "-" where there is none."""
    return f"{100 * fraction:.1f}" if math.isfinite(fraction) else "-"


def as_dict(result: Retrieval) -> dict[str, Any]:
    """A result as plain numbers; what is undefined becomes None."""
    values: dict[str, Any] = {
        "ap": result.ap,
        "camera_norm": result.camera_norm,
        "mAP": _number(result.mAP),
        "mINP": _number(result.mINP),
        "cmc": {str(rank): _number(float(value)) for rank, value in zip(result.ranks, result.cmc)},
        "queries": len(result.per_query_ap),
        "skipped": result.skipped,
        "per_query_ap": [_number(value) for value in result.per_query_ap.tolist()],
    }
    if result.roc is not None:
        values["roc"] = {f"{false:g}": _number(true) for false, true in result.roc.items()}
        scores = result.roc_scores or {}
        values["roc_scores"] = {f"{false:g}": _number(score) for false, score in scores.items()}
    if result.camera_pairs is not None:
        pairs = result.camera_pairs
        values["camera_pairs"] = {
            "query_cams": pairs.query_cams.tolist(),
            "gallery_cams": pairs.gallery_cams.tolist(),
            "mAP": [list(map(_number, row)) for row in pairs.mAP.tolist()],
            "rank1": [list(map(_number, row)) for row in pairs.rank1.tolist()],
            "queries": pairs.queries.tolist(),
        }
    return values


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def write_metrics(path: Path, run: str, results: Mapping[str, Retrieval], **more: Any) -> None:
    """Add a run's results to a JSON file, whole or not at all; other runs in it stay.

    Args:
        run: the entry's name; an earlier entry of this name is replaced.
        more: what else the entry shall say (dataset, checkpoint, ...), as JSON values.

    Raises:
        InputError: the file is there, but is not one of ours; or the disk is full or read-only.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a metrics file of this program: move it away")
    content[run] = {**more, "results": {name: as_dict(result) for name, result in results.items()}}
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    try:
        write_whole(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}; free some space, or change OUTPUT_DIR") from None


def save_features(folder: Path, run: str, query: Features, gallery: Features) -> tuple[Path, Path]:
    """Write ``<run>-query.npz`` and ``<run>-gallery.npz`` (vectors, pids, cams, paths), each whole or not at all.

    Both hold the mark of this extraction, so that a query file never meets the gallery of another model.
    """
    mark = np.array(uuid.uuid4().hex)
    files = folder / f"{run}-query.npz", folder / f"{run}-gallery.npz"
    remove_stale(folder)
    write_together(
        {file: partial(_save, features=part, mark=mark) for file, part in zip(files, (query, gallery))}
    )
    return files


def _save(file: BinaryIO, features: Features, mark: np.ndarray) -> None:
    vectors = features.vectors.detach().cpu()
    np.savez(
        file,
        vectors=(vectors.float() if vectors.dtype == torch.bfloat16 else vectors).numpy(),
        pids=features.pids.cpu().numpy(),
        cams=features.cams.cpu().numpy(),
        paths=np.array(features.paths or [], dtype=np.str_),
        extraction=mark,
    )


def load_features(folder: Path, run: str) -> tuple[Features, Features]:
    """Read what ``save_features`` wrote; nothing in the files is executed.

    Raises:
        InputError: a file is missing, or is not one of features.
    """
    (query, first), (gallery, second) = (_load(folder / f"{run}-{name}.npz") for name in PARTS)
    if first != second:
        raise InputError(
            f"{folder}/{run}-query.npz and -gallery.npz are of two extractions: extract them again"
        )
    return query, gallery


def _load(path: Path) -> tuple[Features, str]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("vectors", "pids", "cams", "paths")}
            mark = str(file["extraction"]) if "extraction" in file else ""  # files of version 0.1 have none
        for name, kinds, dimensions in (
            ("vectors", "f", 2),
            ("pids", "iu", 1),
            ("cams", "iu", 1),
            ("paths", "U", 1),
        ):
            if arrays[name].dtype.kind not in kinds or arrays[name].ndim != dimensions:
                raise ValueError(f"{name} are {arrays[name].dtype} of shape {arrays[name].shape}")
        paths = arrays.pop("paths").tolist()
        rows = {name: len(array) for name, array in arrays.items()} | ({"paths": len(paths)} if paths else {})
        if len(set(rows.values())) > 1:
            raise ValueError("of different lengths: " + ", ".join(f"{n} {name}" for name, n in rows.items()))
        vectors, pids, cams = map(_tensor, arrays.values())
    except FileNotFoundError:
        raise InputError(f"no features at {path}: extract them first with --features-only") from None
    except Exception as error:  # the readers of archives and arrays raise nearly anything on damaged files
        told = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{path} holds no features (vectors, pids, cams, paths): {told}") from None
    return Features(vectors, pids, cams, paths or None), mark


def _tensor(array: np.ndarray) -> torch.Tensor:
    """In this machine's byte order; identities and cameras as int64."""
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    if array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{array.max()} is too large for an identity or a camera")
    return torch.from_numpy(array.astype(np.int64))
