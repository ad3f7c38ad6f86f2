"""Pictures of numbers, made with matplotlib, which only those need who ask for them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossreid.engine.errors import InputError

if TYPE_CHECKING:
    from crossreid.engine.deploy.calibration import Calibration

SAME, OTHER = "#1e9e3c", "#c83228"


def figure(width: float = 6, height: float = 3) -> tuple[Any, Any]:
    """A figure of its own, outside pyplot, and its axes."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    axes = made.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return made, axes


def svg(made: Any) -> str:
    """A figure as an SVG element for a page, the same bytes every time."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "crossreid", "svg.fonttype": "none"}):
        made.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def save(path: Path, made: Any) -> None:
    """A figure as a file of the format that its name ends in."""
    try:
        made.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: the picture cannot be written ({error})") from None


def histograms(result: Calibration) -> Any:
    """Similarities of pairs of one person and of different people, with the thresholds."""
    made, axes = figure(7, 3.4)
    edges = np.linspace(-1, 1, len(result.same) + 1)
    pairs = ((result.different, OTHER, "different people"), (result.same, SAME, "one person"))
    for counts, colour, label in pairs:
        if counts.sum():
            axes.stairs(counts / counts.sum(), edges, fill=True, alpha=0.45, color=colour, label=label)
    for t in result.thresholds:
        axes.axvline(t.threshold, color="black", linewidth=0.8, linestyle="--")
        axes.text(t.threshold, axes.get_ylim()[1] * 0.98, f" {t.rate:g}", rotation=90, va="top", fontsize=8)
    occupied = edges[:-1][(result.same + result.different) > 0]
    axes.set_xlim(max(-1, occupied.min() - 0.05), 1)
    axes.set(xlabel="cosine similarity", ylabel="share of pairs")
    axes.legend(frameon=False, loc="upper left")
    return made


def curves(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str) -> Any:
    """Lines by name."""
    made, axes = figure()
    for name, (x, y) in series.items():
        axes.plot(x, y, label=name, linewidth=1.2, marker="." if len(x) < 30 else None)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if series:
        axes.legend(frameon=False, fontsize=8)
    return made


def heat_map(values: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> Any:
    """A table of fractions as colours with numbers in percent; NaN is left white."""
    made, axes = figure(1.6 + 0.55 * len(columns), 1.2 + 0.42 * len(rows))
    axes.imshow(np.ma.masked_invalid(values), cmap="viridis", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel="gallery camera", ylabel="query camera")
    for (y, x), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value < 0.6 else "black"
            axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    return made


def scatter(points: np.ndarray, labels: np.ndarray, title: str) -> Any:
    """Points [N, 2], coloured by label."""
    made, axes = figure(4.6, 4.2)
    _, codes = np.unique(labels, return_inverse=True)
    axes.scatter(points[:, 0], points[:, 1], c=codes % 20, cmap="tab20", s=9, linewidths=0)
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
    return made
