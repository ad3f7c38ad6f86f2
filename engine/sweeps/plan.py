"""A sweep as it was asked for, checked whole before anything starts: its axes, its points and their runs."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from yacs.config import CfgNode

from crossreid import configs
from crossreid.configs.loading import values_of
from crossreid.engine.data import stream_batch
from crossreid.engine.errors import InputError
from crossreid.engine.sweeps.space import Axis, word

ROW = "ROWS"  # the axis whose values are titles of several overrides at once
SEED = "SEED"
LARGEST = 10_000  # runs of a sweep


@dataclass(frozen=True)
class Point:
    """One setting of all axes but the seed.

    Args:
        values: (key, value) of every axis.
        number: its place among drawn points; None in a grid.
    """

    values: tuple[tuple[str, Any], ...]
    number: int | None = None


@dataclass(frozen=True)
class Run:
    """A point under one seed: a training of its own.

    Args:
        name: of its folders; says its values.
        overrides: words after the config, without name, folder and resuming.
    """

    point: Point
    seed: int
    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """A line of the table that shows another evaluation of a row's runs.

    Args:
        of: the row.
        read: title of the evaluation.
    """

    of: str
    read: str


@dataclass(frozen=True)
class Sweep:
    """What is varied and how.

    Args:
        config: the YAML, as named on the command line.
        base: the config that every run differs from.
        folder: of everything that the sweep writes.
        overrides: of every run.
        axes: keys and values, without the seed.
        rows: overrides by title, of the axis ``ROWS``.
        views: further lines of the table by title.
        titles: of rows and views, in the order of the YAML.
        seeds: of every point.
        sampler: grid, random or tpe.
        trials: points to draw; of a grid all.
        sampler_seed: of the drawing.
        objective: a criterion of the target's training images, or oracle.
        prune: stop runs that fall behind the median.
    """

    config: str
    base: CfgNode
    folder: Path
    overrides: tuple[str, ...]
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    sampler: str
    trials: int
    objective: str
    sampler_seed: int = 0
    prune: bool = False
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    views: Mapping[str, View] = field(default_factory=dict)
    titles: tuple[str, ...] = ()

    def points(self) -> list[Point]:
        """All points of a grid, or as many random ones as are asked for; none of them twice."""
        if self.sampler == "grid":
            keys = [axis.key for axis in self.axes]
            return [Point(tuple(zip(keys, v))) for v in itertools.product(*(a.values for a in self.axes))]
        found: dict[tuple[Any, ...], Point] = {}
        for attempt in range(1000 * self.trials):
            random = np.random.default_rng((self.sampler_seed, attempt))
            values = tuple((axis.key, axis.draw(random)) for axis in self.axes)
            found.setdefault(_hashable(values), Point(values, len(found)))
            if len(found) == self.trials:
                return list(found.values())
        raise InputError(f"there are only {len(found)} points to draw, not {self.trials}: lower --trials")

    def runs(self, point: Point) -> list[Run]:
        """The runs of a point, a seed each."""
        return [Run(point, seed, self._name(point, seed), self._words(point, seed)) for seed in self.seeds]

    def words(self, run: Run) -> list[str]:
        """All words after ``crossreid train --devices D``."""
        own = ["NAME", run.name, "OUTPUT_DIR", str(self.folder), "RESUME", "auto"]
        return [self.config, *run.overrides, *own]

    def _words(self, point: Point, seed: int) -> tuple[str, ...]:
        found = [*self.overrides, *_with_seed(self.base)]
        for key, value in point.values:
            for name, setting in self.rows[value].items() if key == ROW else ((key, value),):
                found += [name, word(setting)]
        return tuple(text.replace("{SEED}", str(seed)) for text in [*found, SEED, str(seed)])

    def _name(self, point: Point, seed: int) -> str:
        parts = [] if point.number is None else [f"{point.number:03d}"]
        short = [key.rsplit(".", 1)[-1].lower() for key, _ in point.values]
        for (key, value), last in zip(point.values, short):
            label = "" if key == ROW else last if short.count(last) == 1 else key.lower()
            text = f"{value:.4g}" if isinstance(value, float) else str(value).rpartition("/")[2]
            parts.append(label + text)
        plain = "-".join(parts)
        clean = re.sub(r"[^\w.-]+", "_", plain).strip("._-") or "point"
        if len(clean) > 80 or (point.number is None and not _simple(point)):
            digest = hashlib.sha256(repr(point.values).encode()).hexdigest()[:6]
            clean = f"{clean[:80]}-{digest}"
        return f"{clean}-seed{seed}"


def _with_seed(cfg: CfgNode) -> list[str]:
    """Overrides for the texts of the YAML itself that hold ``{SEED}``."""
    found = values_of(cfg).items()
    return [w for key, value in found if isinstance(value, str) and "{SEED}" in value for w in (key, value)]


def _simple(point: Point) -> bool:
    """Whether a name made of the values stands for these values alone."""
    values = [value for _, value in point.values]
    return all(
        (isinstance(v, float) and float(f"{v:.4g}") == v)
        or isinstance(v, (int, bool))
        or (isinstance(v, str) and re.fullmatch(r"[\w.]+", v) is not None)
        for v in values
    )


def _hashable(values: tuple[tuple[str, Any], ...]) -> tuple[Any, ...]:
    return tuple((key, repr(value)) for key, value in values)


def check_runs(sweep: Sweep, processes: int) -> None:
    """Load the config of every run, or of every end of every axis where points are drawn later.

    Args:
        processes: of each run.

    Raises:
        ConfigError, InputError: the first run whose config is refused; its overrides are named.
    """
    for words in _all_words(sweep):
        cfg = load_run(sweep, words)
        stream_batch(cfg, len(cfg.DATASETS.SOURCES) + bool(cfg.DATASETS.ADAPT), processes)


def load_run(sweep: Sweep, words: tuple[str, ...]) -> CfgNode:
    """The config of a run.

    Raises:
        ConfigError: it is refused; the run is named.
    """
    try:
        return configs.load(sweep.config, list(words))
    except configs.ConfigError as error:
        shown = " ".join(words[len(sweep.overrides) :])
        raise configs.ConfigError(f"{error} (in the run {shown})") from None


def _all_words(sweep: Sweep) -> Iterator[tuple[str, ...]]:
    if sweep.sampler != "tpe":
        points = sweep.points()
        if len(points) * len(sweep.seeds) > LARGEST:
            raise InputError(
                f"that is {len(points) * len(sweep.seeds):,} runs: give fewer values, or --sampler random --trials N"
            )
        for point in points:
            yield from (run.overrides for run in sweep.runs(point))
        return
    for axis in sweep.axes:
        for value in axis.values or (axis.low, axis.high):
            yield sweep.runs(Point(((axis.key, value),)))[0].overrides
