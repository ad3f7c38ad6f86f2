"""Thresholds for a wanted false match rate: crossreid calibrate INDEX|FEATURES [--fmr 1e-3] [--png F].

FEATURES is a *-query.npz or *-gallery.npz of eval.py (labelled), INDEX one of crossreid index. Identities are used
where they are known (a CSV with pid); otherwise photos or tracks of one camera at one moment are different people, and
a track is one person. The result is stored in the index, or beside the features, and in the checkpoint.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crossreid.engine.commands import command_parser
from crossreid.engine.errors import InputError, guarded
from crossreid.engine.extras import need

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from crossreid.engine.deploy.calibration import Calibration
    from crossreid.engine.deploy.index import Index
    from crossreid.engine.deploy.pair_truth import Truth


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command; ``arguments`` default to the command line's."""
    parser = command_parser("calibrate", __doc__)
    parser.add_argument("source", type=Path, metavar="INDEX|FEATURES")
    parser.add_argument(
        "overrides", nargs="*", help="KEY VALUE pairs of the checkpoint that keeps the result"
    )
    parser.add_argument("--fmr", type=float, default=1e-3, help="false match rate of the stored threshold")
    parser.add_argument("--distinct", action="store_true", help="photos of a camera are all different people")
    parser.add_argument("--png", type=Path, metavar="F", help="histograms; default: beside the result")
    parser.add_argument("--checkpoint", type=Path, help="to store the result in; default: the index's")
    options = parser.parse_intermixed_args(arguments)
    if not 0 < options.fmr < 0.5:
        raise InputError(f"--fmr {options.fmr}: give a rate between 0 and 0.5, such as 1e-3")

    need("a picture of the histograms", "report", "matplotlib")
    from crossreid.engine.deploy.calibration import calibrate
    from crossreid.engine.deploy.plots import histograms, save

    source = _read(options.source, options.distinct, options.fmr)
    result = calibrate(source.vectors, source.truth, wanted=options.fmr)
    summary = result.summary(options.fmr, source.digest)
    print(_table(result))
    beside = source.keep(summary)
    picture = options.png or beside
    save(picture, histograms(result))
    print(f"histograms: {picture}")
    overrides = [*source.overrides, *options.overrides]
    _store_in_checkpoint(options.checkpoint or source.checkpoint, summary, overrides)


def _table(result: Calibration) -> str:
    """The thresholds for people."""
    lines = [
        f"{result.different_pairs:,} pairs of different people, {result.same_pairs:,} of one person, "
        f"{result.photos:,} photos",
        f"assumed: {result.assumption}",
        f"{'false match rate':>16}{'threshold':>11}{'95 % interval':>18}{'rate, 95 %':>22}{'found':>8}",
    ]
    for t in result.thresholds:
        found = "-" if math.isnan(t.hits) else f"{100 * t.hits:.1f} %"
        lines.append(
            f"{t.rate:>16g}{t.threshold:>11.4f}{f'{t.low:.4f}-{t.high:.4f}':>18}"
            f"{f'{t.rate_low:.2g}-{t.rate_high:.2g}':>22}{found:>8}"
        )
    return "\n".join(lines)


class Source(NamedTuple):
    """What thresholds come from, and ``keep``, which stores them and gives the picture's path."""

    vectors: np.ndarray
    truth: Truth
    digest: str
    checkpoint: Path | None
    keep: Callable[[dict[str, Any]], Path]
    overrides: list[str]  # that the vectors were made with


def _read(source: Path, distinct: bool, fmr: float) -> Source:
    from crossreid.engine.deploy.index import open_index
    from crossreid.engine.deploy.pair_truth import from_cameras, from_labels

    if source.suffix == ".npz":
        vectors, pids, cams = _read_features(source)

        def beside(summary: dict[str, Any]) -> Path:
            import json

            path = source.with_name(f"{source.stem}-calibration.json")
            path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
            print(f"stored: {path}")
            return path.with_suffix(".png")

        return Source(vectors, from_labels(pids, cams), "", None, beside, [])
    index = open_index(source)
    columns = index.columns
    if (columns.persons >= 0).any() and not distinct:
        truth = from_labels(columns.persons, columns.cameras)
    else:
        truth = from_cameras(
            columns.cameras, columns.times, columns.tracks, distinct=distinct, origin=str(source)
        )

    def inside(summary: dict[str, Any]) -> Path:
        index.remember(calibration=summary)
        print(f"stored: {source}")
        return source / "calibration.png"

    vectors, truth = _fresh(index, truth, fmr)
    return Source(vectors, truth, index.digest, Path(index.meta["checkpoint"]), inside, index.overrides)


def _read_features(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``labelled`` of the features that ``eval.py`` wrote."""
    from crossreid.engine.deploy.pair_truth import labelled
    from crossreid.engine.evaluation.report import load_features

    run = path.stem.removesuffix("-query").removesuffix("-gallery")
    if run == path.stem:
        raise InputError(f"{path}: give a *-query.npz or *-gallery.npz of eval.py, or an index")
    return labelled(*load_features(path.parent, run))


def _fresh(index: Index, truth: Truth, fmr: float) -> tuple[np.ndarray, Truth]:
    """The photos that the network was not trained on, if they suffice for the rate, else all with a word of warning."""
    import os

    import numpy as np

    from crossreid.engine.deploy.calibration import shows
    from crossreid.engine.deploy.training_photos import training_photos

    known = training_photos(Path(index.meta["checkpoint"]))
    seen = np.array([os.path.realpath(path) in known for path in index.columns.paths], bool)
    if not (count := int(seen.sum())):
        return index.vectors, truth
    rows = np.flatnonzero(~seen)
    fresh = truth.take(
        rows, f"{truth.assumption}; {count:,} photos that the network was trained on are left out"
    )
    if shows(fresh, fmr):
        return index.vectors[rows], fresh
    print(
        f"warning: the network was trained on {count:,} of these {len(seen):,} photos and knows their people: among "
        "others the rate may lie outside its interval. Add photos that it has not seen (crossreid index ... --out "
        f"{index.folder}) and calibrate again: those alone count if they suffice"
    )
    words = f"{truth.assumption}; the network was trained on {count:,} of the {len(seen):,} photos"
    return index.vectors, truth.take(np.arange(len(seen)), words)


def _store_in_checkpoint(path: Path | None, summary: dict[str, Any], overrides: list[str]) -> None:
    from crossreid.engine import checkpoint
    from crossreid.engine.deploy.embedder import Embedder

    if path is None:
        return
    if not path.is_file():
        print(f"not stored in the checkpoint: {path} is not there")
        return
    digest = Embedder(path, device="cpu", overrides=overrides).digest
    if summary["digest"] not in ("", digest):
        print(f"not stored in the checkpoint: {path} holds another network or other preprocessing")
        return
    checkpoint.save(path, {**checkpoint.read_checkpoint(path), "calibration": {**summary, "digest": digest}})
    print(f"stored: {path}")
