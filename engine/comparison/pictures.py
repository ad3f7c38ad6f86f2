"""Learning curves and parallel coordinates, drawn with matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from crossreid.engine.comparison.groups import Group
from crossreid.engine.evaluation.criteria import CRITERIA

LINES = 12  # rows that are drawn


def png(figure: Any) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def learning_curves(groups: Sequence[Group]) -> Any:
    """mAP and the label-free criteria by epoch: the mean over seeds, and the band from the lowest to the highest."""
    from matplotlib.figure import Figure

    shown = groups[:LINES]
    present = [m for m in ("mAP", *CRITERIA) if any(len(_curve(group, m)[0]) > 1 for group in shown)] or [
        "mAP"
    ]
    figure = Figure(figsize=(4.2 * len(present), 3.6), layout="constrained")
    for axes, metric in zip(np.atleast_1d(figure.subplots(1, len(present))), present):
        axes.spines[["top", "right"]].set_visible(False)
        for number, group in enumerate(shown):
            epochs, values = _curve(group, metric)
            colour = f"C{number % 10}"
            style = "-" if number < 10 else "--"
            axes.plot(
                epochs, values.mean(1), style, color=colour, label=group.label, marker=".", linewidth=1.2
            )
            if values.shape[1] > 1:
                axes.fill_between(epochs, values.min(1), values.max(1), color=colour, alpha=0.15, linewidth=0)
        axes.set(xlabel="epoch", title=f"{metric}, in percent" if metric == "mAP" else metric)
    axes.legend(frameon=False, fontsize=7)
    return figure


def _curve(group: Group, metric: str) -> tuple[list[int], np.ndarray]:
    """Epochs that all runs of a row were evaluated at, and the values there [epochs, runs]."""
    scale = 100 if metric == "mAP" else 1
    runs = [
        {e.epoch: scale * e.values[metric] for e in record.evaluations if metric in e.values}
        for record in group.records
    ]
    runs = [run for run in runs if run]
    common = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    return common, np.array([[run[epoch] for run in runs] for epoch in common]).reshape(
        len(common), len(runs)
    )


def parallel_coordinates(
    names: Sequence[str], points: Sequence[Sequence[Any]], scores: Sequence[float], score: str
) -> Any:
    """A line through the values of each point, coloured by what it reached.

    Args:
        names: of the axes.
        points: values of each point, numbers or texts.
        scores: of each point; those that are not finite are left out.
        score: their name, the last axis.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    kept = [i for i, value in enumerate(scores) if math.isfinite(value)]
    columns = [[points[i][k] for i in kept] for k in range(len(names))] + [[scores[i] for i in kept]]
    figure = Figure(figsize=(1.8 + 1.7 * len(columns), 4), layout="constrained")
    axes = figure.subplots()
    axes.spines[:].set_visible(False)
    heights = np.empty((len(columns), len(kept)))
    for k, column in enumerate(columns):
        heights[k], ticks = _places(column)
        axes.axvline(k, color="0.7", linewidth=0.8)
        for height, text in ticks:
            axes.text(k + 0.03, height, text, fontsize=7, va="center")
    spread = heights[-1] if len(kept) else np.zeros(0)
    for i in np.argsort(spread):  # the best on top
        axes.plot(
            range(len(columns)),
            heights[:, i],
            color=colormaps["viridis"](spread[i]),
            linewidth=1.4,
            alpha=0.85,
        )
    axes.set_xticks(range(len(columns)), [*names, score])
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(columns) - 0.6)
    return figure


def _places(column: Sequence[Any]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Heights in 0..1 of values on an axis, and its ticks; numbers that span decades stand by their logarithm."""
    if not column:
        return np.zeros(0), []
    if any(isinstance(value, (str, list, bool)) for value in column):
        texts = [str(value) for value in column]
        known = list(dict.fromkeys(texts))
        step = 1 / max(1, len(known) - 1)
        return np.array([known.index(t) * step for t in texts]), [(i * step, t) for i, t in enumerate(known)]
    numbers = np.array(column, dtype=np.float64)
    low, high = numbers.min(), numbers.max()
    logarithmic = low > 0 and high / low > 20
    places = np.log(numbers) if logarithmic else numbers
    bottom, top = places.min(), places.max()
    heights = (places - bottom) / (top - bottom) if top > bottom else np.full(len(places), 0.5)
    different = np.unique(numbers)
    ticks = different if len(different) <= 6 else np.array([low, high])
    return heights, [(float(heights[int(np.flatnonzero(numbers == t)[0])]), f"{t:.4g}") for t in ticks]
