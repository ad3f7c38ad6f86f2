"""What a sweep leaves: ``table.md``, ``trials.csv``, ``best.yml`` and pictures."""

from __future__ import annotations

import csv
import io
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from crossreid.configs.loading import SWEEP, values_of
from crossreid.configs.overrides import pairs
from crossreid.configs.reading import BASE
from crossreid.engine.comparison.groups import Group, cell, compare, correlations, short_names
from crossreid.engine.comparison.output import draw_curves, write
from crossreid.engine.comparison.runs import Record
from crossreid.engine.comparison.table import Table
from crossreid.engine.evaluation.criteria import CRITERIA
from crossreid.engine.extras import installed
from crossreid.engine.sweeps.asked import ORACLE
from crossreid.engine.sweeps.plan import ROW, Point, Run, Sweep, load_run
from crossreid.engine.sweeps.results import DONE, FAILED, PRUNED, Results, objective


def command(sweep: Sweep, run: Run, devices: str) -> str:
    """What repeats a run by hand, under a name of its own."""
    words = [sweep.config, *run.overrides, "NAME", f"{sweep.folder.name}-{run.name}"]
    return f"crossreid train --devices {devices} {shlex.join(words)}"


def ranked(results: Results, points: Sequence[Point]) -> list[Point]:
    """Points that have a finished run, the best first, those with missing runs last; rows keep their order."""
    found = [point for point in points if results.finished(point)]
    if [axis.key for axis in results.sweep.axes] == [ROW]:
        return found
    scores = {id(point): results.score(point) for point in found}
    return sorted(found, key=lambda p: (math.isnan(scores[id(p)]), -scores[id(p)]))


def groups_of(results: Results, points: Sequence[Point]) -> list[Group]:
    """A row for each point, and the views that a sweep of rows asks for."""
    sweep = results.sweep
    heads = _heads(sweep)
    rows = [
        Group(tuple(_text(v) for _, v in p.values) or ("all",), results.finished(p), heads) for p in points
    ]
    if not sweep.views:
        return rows
    named = {row.label: row for row in rows}
    for title, view in sweep.views.items():
        if view.of in named:
            seen = [_only(record, view.read) for record in named[view.of].records]
            named[title] = Group((title,), [record for record in seen if record.evaluations])
    return [named[title] for title in sweep.titles if title in named and named[title].records]


def _heads(sweep: Sweep) -> tuple[str, ...]:
    """Heads of the columns that tell points apart; none above the titles of rows."""
    keys = [axis.key for axis in sweep.axes]
    return tuple("" if key == ROW else name for key, name in zip(keys, short_names(keys))) or ("",)


def _only(record: Record, read: str) -> Record:
    return replace(record, evaluations=[e for e in record.evaluations if e.title == read], aps=[])


def table(results: Results, points: Sequence[Point], devices: str) -> Table:
    """The table of a sweep: the objective, the last epoch beside it, and what the labels would have chosen."""
    sweep, rows, heads = results.sweep, ranked(results, points), _heads(results.sweep)
    groups = groups_of(results, rows)
    oracle = [cell([objective(r, ORACLE) for r in group.records], "mAP") for group in groups]
    lead = [] if sweep.objective == ORACLE else [
        (sweep.objective, [cell(group.values(sweep.objective), sweep.objective) for group in groups])
    ]  # fmt: skip
    lead.append(("best mAP", oracle))
    chosen = "the highest mAP of all epochs, which the target's labels choose" if sweep.objective == ORACLE else (
        f"{sweep.objective}, without the target's labels"
    )  # fmt: skip
    notes = [
        f"Objective: {chosen}. best mAP: the best epoch by the target's labels (oracle); the others: the last epoch.",
        *correlations([record for point in points for record in results.finished(point)]),
        *_unfinished(results, points),
    ]
    made = compare(f"Sweep {sweep.folder.name}", heads, groups, lead=lead, notes=notes)
    commands = [(group.label, _command_of(results, points, group, devices)) for group in groups]
    return replace(made, commands=commands)


def _command_of(results: Results, points: Sequence[Point], group: Group, devices: str) -> str:
    """The command of a row's first finished run."""
    name = group.records[0].name
    run = next(r for p in points for r in results.sweep.runs(p) if r.name == name)
    return command(results.sweep, run, devices)


def _unfinished(results: Results, points: Sequence[Point]) -> list[str]:
    """Runs that have failed, were pruned or are still to come, a line each."""
    lines, left = [], 0
    for point in points:
        for run in results.sweep.runs(point):
            ended = results.ended(run)
            if ended is None:
                left += not results.over(point)
            elif ended.state == FAILED:
                lines.append(f"failed (exit code {ended.code}): {run.name}: {ended.line}")
            elif ended.state == PRUNED:
                progress = results.progress(run)
                where = f" at epoch {progress[-1][0]}, {progress[-1][1]:.3f}" if progress else ""
                lines.append(f"pruned: {run.name}{where}")
    return lines + [f"{left} {'run is' if left == 1 else 'runs are'} not done yet"] * bool(left)


def trials_csv(results: Results, points: Sequence[Point], devices: str) -> str:
    """A line for each run."""
    sweep, out = results.sweep, io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    keys = [axis.key for axis in sweep.axes]
    measured = [*CRITERIA, "mAP", "rank1"]
    writer.writerow(
        [
            "run",
            *keys,
            "SEED",
            "state",
            "objective",
            "epoch",
            *measured,
            "best_mAP",
            "command",
            "attempts",
            "seconds",
            "host",
        ]
    )
    for run in (run for point in points for run in sweep.runs(point)):
        ended = results.ended(run)
        record = results.record(run) if ended and ended.state == DONE else None
        last = record.read() if record else None
        values = ["", "", *[""] * len(measured), ""]
        if record and last:
            values = [_digits(objective(record, sweep.objective)), str(last.epoch)]
            values += [_digits(last.values.get(m, math.nan)) for m in measured] + [
                _digits(objective(record, ORACLE))
            ]
        end = [str(ended.attempts), str(ended.seconds), ended.host] if ended else ["", "", ""]
        setting = [_text(value) for _, value in run.point.values]
        state = ended.state if ended else "waiting"
        writer.writerow([run.name, *setting, run.seed, state, *values, command(sweep, run, devices), *end])
    return out.getvalue()


def _digits(value: float) -> str:
    return f"{value:.6f}" if math.isfinite(value) else ""


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def best_yaml(results: Results, point: Point) -> str:
    """The best point as a config: over the YAML that the sweep started from, or whole where that is a template."""
    sweep = results.sweep
    run, origin, name = sweep.runs(point)[0], Path(sweep.config), f"{sweep.folder.name}-best"
    if origin.is_file():
        tree: dict[str, Any] = {BASE: os.path.relpath(origin, sweep.folder), "NAME": name, SWEEP: None}
        settings = dict(pairs(list(run.overrides)))
    else:
        tree = {"NAME": name}
        aside = ("NAME", "OUTPUT_DIR", "RESUME", "IF_EXISTS")
        settings = {k: v for k, v in values_of(load_run(sweep, run.overrides)).items() if k not in aside}
    for key, value in settings.items():
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    if len(sweep.seeds) > 1:
        del tree["SEED"]
    head = f"# The best point of the sweep {sweep.folder.name} by {sweep.objective}: {results.score(point):.4f}\n"
    return head + yaml.safe_dump(tree, sort_keys=False, default_flow_style=None)


def write_all(results: Results, points: Sequence[Point], devices: str, *, final: bool) -> Table:
    """All files of a sweep; the pictures only at its end."""
    folder = results.sweep.folder
    made = table(results, points, devices)
    write(folder / "table.md", made.markdown().encode())
    write(folder / "trials.csv", trials_csv(results, points, devices).encode())
    order = ranked(results, points)
    best = [point for point in order if math.isfinite(results.score(point))]
    if best:
        top = max(best, key=results.score)
        write(folder / "best.yml", best_yaml(results, top).encode())
    if final and best and installed("matplotlib"):
        _draw(results, best)
    return made


def _draw(results: Results, points: Sequence[Point]) -> None:
    from crossreid.engine.comparison.pictures import parallel_coordinates, png

    sweep = results.sweep
    draw_curves(sweep.folder / "curves.png", groups_of(results, points))
    keys = [axis.key for axis in sweep.axes]
    if len(points) > 1 and keys != [ROW]:
        names = ["row" if k == ROW else n for k, n in zip(keys, short_names(keys))]
        values = [[value for _, value in point.values] for point in points]
        scores = [results.score(point) for point in points]
        picture = parallel_coordinates(names, values, scores, sweep.objective)
        write(sweep.folder / "parallel.png", png(picture))
