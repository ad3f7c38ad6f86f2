"""From the command line and the section ``SWEEP`` of a YAML to a sweep."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from crossreid import configs
from crossreid.configs.loading import SWEEP
from crossreid.configs.methods import schema_of
from crossreid.configs.reading import read_yaml, shown
from crossreid.configs.schema import Key
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.criteria import CRITERIA
from crossreid.engine.sweeps.plan import ROW, SEED, Sweep, View
from crossreid.engine.sweeps.space import Axis, read_axis, split_values

ORACLE = "oracle"
SAMPLERS = ("grid", "random", "tpe")
_ASSIGNED = re.compile(r"(?:--)?([^\W\d]\w*(?:\.\w+)*)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Wishes:
    """The options of the command line; None where the YAML or a default decides."""

    sampler: str | None = None
    trials: int | None = None
    sampler_seed: int | None = None
    objective: str | None = None
    prune: bool | None = None


def read_sweep(config: str, words: list[str], wishes: Wishes) -> Sweep:
    """The sweep that a YAML and a command line ask for; the command line has the last word.

    Args:
        words: ``KEY=a,b``, ``KEY=low..high[:log|:step]``, and overrides of every run.

    Raises:
        ConfigError, InputError: an unknown key, a refused value, settings that contradict each other.
    """
    axes_given, overrides = sort_words(words)
    section = read_yaml(Path(config)).get(SWEEP) or {}
    if not isinstance(section, dict):
        raise InputError(f"SWEEP in {config} holds keys and their values, not {shown(section)}")
    base = configs.load(config, overrides)
    keys = schema_of(base.METHOD).keys()
    settings = {
        name: section[name]
        for name in ("SAMPLER", "TRIALS", "OBJECTIVE", "PRUNE", "SAMPLER_SEED")
        if name in section
    }
    rows, views = _rows(section.get(ROW, {}), keys, config)
    axes = {}
    for origin, given in ((f"SWEEP of {config}", section), ("the command line", axes_given)):
        for key, value in given.items():
            if key in settings or (key == ROW and given is section):
                continue
            name = _known(str(key), keys, config, origin)
            axes[name] = read_axis(name, value, keys, origin)
    seeds = axes.pop(SEED, Axis(SEED, (base.SEED,)))
    if rows:
        axes = {ROW: Axis(ROW, tuple(rows)), **axes}
    if views and len(axes) > 1:
        raise InputError(f"SWEEP.{ROW} of {config}: rows with OF and READ go with no other key than SEED")
    if not axes and len(seeds.values) < 2:
        raise InputError(
            "nothing to sweep: give keys with values, KEY=a,b,c or KEY=low..high, or a section SWEEP"
        )
    if not seeds.values:
        raise InputError("SEED takes values, SEED=0,1,2, no range: every point runs under each of them")
    swept = {ROW} | set(axes) | {key for row in rows.values() for key in row}
    sampler, trials = _sampler(settings, wishes, tuple(axes.values()))
    return Sweep(
        config, base, Path(base.OUTPUT_DIR) / "sweeps" / base.NAME, _without(overrides, "NAME", "OUTPUT_DIR"),
        tuple(axes.values()), seeds.values, sampler, trials, _objective(settings, wishes, base, swept),
        _whole("SAMPLER_SEED", settings, wishes.sampler_seed, 0),
        _flag("PRUNE", settings, wishes.prune), rows, views, tuple(map(str, section.get(ROW, {}))),
    )  # fmt: skip


def sort_words(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """What varies, by key, and the overrides of every run: ``KEY VALUE`` and a single ``KEY=VALUE``.

    Raises:
        InputError: a key whose values are given twice.
    """
    axes: dict[str, Any] = {}
    overrides: list[str] = []
    left = list(words)
    while left:
        match = _ASSIGNED.fullmatch(first := left.pop(0))
        if not match:
            overrides += [first, *left[:1]]
            del left[:1]
            continue
        key, text = match.groups()
        values = split_values(text, f"{key} on the command line")
        if isinstance(values, list) and len(values) == 1:
            overrides += [f"{key}={text}"]
        elif key.upper() in map(str.upper, axes):
            raise InputError(f"{key} is given twice on the command line: keep one")
        else:
            axes[key] = values
    return axes, overrides


def _without(overrides: list[str], *names: str) -> tuple[str, ...]:
    """Overrides as pairs, without some keys."""
    kept: list[str] = []
    left = list(overrides)
    while left:
        first = left.pop(0)
        match = _ASSIGNED.fullmatch(first)
        key, value = match.groups() if match else (first, left.pop(0))
        if key.upper() in ("RESUME", "IF_EXISTS"):
            raise InputError(f"{key.upper()} cannot be given: a sweep goes on with its own runs")
        if key.upper() not in names:
            kept += [key.upper(), value]
    return tuple(kept)


def _known(key: str, keys: Mapping[str, Key], config: str, origin: str) -> str:
    """A key's name in the config.

    Raises:
        ConfigError: it is unknown; the nearest is named.
    """
    name = key if key in keys else key.upper()
    if name not in keys:
        configs.load(config, [f"{name}=0"])
        raise InputError(f"{key} in {origin} is a section: name a key in it")
    return name


def _rows(
    given: Any, keys: Mapping[str, Key], config: str
) -> tuple[dict[str, dict[str, Any]], dict[str, View]]:
    """Overrides by title, and views of them."""
    origin = f"SWEEP.{ROW} of {config}"
    if not isinstance(given, dict):
        raise InputError(f"{origin} holds titles and their keys, not {shown(given)}")
    rows: dict[str, dict[str, Any]] = {}
    views: dict[str, View] = {}
    for title, row in given.items():
        row = {} if row is None else row
        if not isinstance(row, dict):
            raise InputError(f"{origin}: {title} holds keys and values, not {shown(row)}")
        if set(row) == {"OF", "READ"}:
            views[str(title)] = View(str(row["OF"]), str(row["READ"]))
            continue
        names = {key: _known(str(key), keys, config, origin) for key in row}
        rows[str(title)] = {
            names[k]: read_axis(names[k], [v], keys, origin).values[0] for k, v in row.items()
        }
    for title, view in views.items():
        if view.of not in rows:
            raise InputError(f"{origin}: {title} is OF {view.of!r}, which is no row: {', '.join(rows)}")
    return rows, views


def _sampler(settings: Mapping[str, Any], wishes: Wishes, axes: tuple[Axis, ...]) -> tuple[str, int]:
    """The sampler and the number of points that it draws."""
    trials = _whole("TRIALS", settings, wishes.trials, 0)
    ranges = [axis.key for axis in axes if not axis.values]
    sampler = wishes.sampler or settings.get("SAMPLER") or ("random" if ranges and trials else "grid")
    if sampler not in SAMPLERS:
        raise InputError(f"SWEEP.SAMPLER is {shown(sampler)}, allowed are {', '.join(SAMPLERS)}")
    if sampler == "grid":
        if ranges:
            raise InputError(
                f"{ranges[0]} is a range, a grid needs values: give a,b,c or low..high:step, or draw points of it with "
                "--sampler random --trials N"
            )
        if trials:
            raise InputError("a grid runs whole: leave --trials out, or draw points with --sampler random")
    elif trials < 1:
        raise InputError(f"--sampler {sampler} draws points: say how many with --trials N")
    return sampler, trials


def _objective(settings: Mapping[str, Any], wishes: Wishes, base: CfgNode, swept: set[str]) -> str:
    """What a sweep chooses by: a label-free criterion wherever the target is adapted to."""
    judged = bool(base.TEST.CRITERIA and base.DATASETS.ADAPT)
    objective = wishes.objective or settings.get("OBJECTIVE") or (DEFAULT if judged else ORACLE)
    if objective not in (*CRITERIA, ORACLE):
        raise InputError(f"the objective is {shown(objective)}, allowed are {', '.join((*CRITERIA, ORACLE))}")
    if objective == ORACLE:
        return objective
    if not judged:
        raise InputError(
            f"the objective {objective} judges the target's training images: set TEST.CRITERIA and DATASETS.ADAPT "
            "true, or choose by the target's labels with --objective oracle"
        )
    if objective == "source_guided" and len(base.DATASETS.SOURCES) != 1:
        raise InputError(
            f"the objective source_guided judges by one labelled source, DATASETS.SOURCES names {base.DATASETS.SOURCES}"
        )
    if moving := sorted(key for key in swept if key.startswith("TEST.CLUSTER")):
        raise InputError(f"{moving[0]} is the ruler that {objective} measures with: it cannot be swept, too")
    return str(objective)


DEFAULT = "silhouette"


def _whole(name: str, settings: Mapping[str, Any], wish: int | None, default: int) -> int:
    value = settings.get(name, default) if wish is None else wish
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"{name} of the sweep must be a whole number of 0 or more, got {shown(value)}")
    return value


def _flag(name: str, settings: Mapping[str, Any], wish: bool | None) -> bool:
    value = settings.get(name, False) if wish is None else wish
    if not isinstance(value, bool):
        raise InputError(f"SWEEP.{name} must be true or false, got {shown(value)}")
    return value
