"""Runs that differ by their seed alone are one row; rows are told apart by the keys in which they differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossreid.configs.methods import method_config, method_names
from crossreid.engine.comparison.runs import METRICS, Record
from crossreid.engine.comparison.statistics import (
    Paired,
    holm,
    mean_aps,
    mean_deviation,
    paired,
    rank_correlation,
)
from crossreid.engine.comparison.table import Table
from crossreid.engine.evaluation.criteria import CRITERIA

# Keys, or whole sections, that say how a run was made, not what it is
ASIDE = (
    "NAME", "SEED", "OUTPUT_DIR", "RESUME", "IF_EXISTS", "LOG", "CHECKPOINT", "DATASETS.ROOT", "DATASETS.CACHE",
    "DATALOADER.WORKERS", "TEST.CHUNK_MB", "TEST.BATCH_SIZE",
)  # fmt: skip
WIDEST = 5  # differing keys that are columns of their own
CORRELATED = 5  # runs, or evaluations of a run, that a rank correlation needs


@dataclass(frozen=True)
class Group:
    """One row: the runs of one setting.

    Args:
        cells: what tells it apart, a text for each of the first columns.
        heads: of these columns; empty where a cell speaks for itself.
    """

    cells: tuple[str, ...]
    records: Sequence[Record]
    heads: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        named = zip(self.heads, self.cells)
        return (
            ", ".join(f"{head} {cell}".strip() for head, cell in named)
            if self.heads
            else " ".join(self.cells)
        )

    def values(self, metric: str, read: str = "") -> list[float]:
        """A metric of each run at its last evaluation, or at the last one of a title; NaN where it has none."""
        found = [record.read(read) for record in self.records]
        return [e.values.get(metric, math.nan) if e else math.nan for e in found]


def group_runs(records: Sequence[Record]) -> tuple[list[str], list[Group]]:
    """Heads of the first columns, and the rows in the order of their first runs."""
    sorted_out: dict[str, list[Record]] = {}
    for record in records:
        sorted_out.setdefault(repr(_identity(record)), []).append(record)
    members = list(sorted_out.values())
    keys = differing([_identity(runs[0]) for runs in members])
    if not keys or len(keys) > WIDEST:
        return ["run"], [Group((_name(runs),), runs) for runs in members]
    cells = [tuple(_shown(_identity(runs[0]).get(key)) for key in keys) for runs in members]
    heads = short_names(keys)
    return heads, [Group(cell, runs, tuple(heads)) for cell, runs in zip(cells, members)]


def _identity(record: Record) -> dict[str, Any]:
    """The settings that make a run what it is, whatever its seed."""
    settings = record.settings
    others = {method_config(name).SECTION for name in method_names() if name != settings["METHOD"]}
    kept = {k: v for k, v in settings.items() if not k.startswith(ASIDE) and k.split(".")[0] not in others}
    seed = settings["SEED"]
    return {k: v.replace(f"seed{seed}/", "seed{SEED}/") if isinstance(v, str) else v for k, v in kept.items()}


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that do not have one value everywhere, in their order."""
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if any(each.get(key) != settings[0].get(key) for each in settings)]


def short_names(keys: Sequence[str]) -> list[str]:
    """The last part of each key, or the whole of it where two end alike."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return [short if last.count(short) == 1 else key for key, short in zip(keys, last)]


def _name(runs: Sequence[Record]) -> str:
    return runs[0].name if len(runs) == 1 else f"{runs[0].name} and {len(runs) - 1} more"


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def head(metric: str) -> str:
    """A metric's name above its column."""
    return f"Rank-{metric[4:]}" if metric.startswith("rank") else metric


def cell(values: Sequence[float], metric: str) -> str:
    """Mean ± deviation: retrieval metrics in percent, criteria as they are."""
    scale, digits = (1.0, 3) if metric in CRITERIA else (100.0, 1)
    mean, deviation = mean_deviation([scale * value for value in values])
    if not math.isfinite(mean):
        return "-"
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if math.isfinite(deviation) else "")


def against(groups: Sequence[Group], baseline: int) -> list[Paired | None]:
    """Each row against one of them, over queries; None for that row and where queries differ."""
    aps = [mean_aps([record.aps for record in group.records]) for group in groups]
    return [None if i == baseline else paired(aps[baseline], mine) for i, mine in enumerate(aps)]


def compare(
    title: str,
    columns: Sequence[str],
    groups: Sequence[Group],
    *,
    metrics: Sequence[str] = METRICS[:3],
    read: str = "",
    baseline: int = 0,
    lead: Sequence[tuple[str, Sequence[str]]] = (),
    notes: Sequence[str] = (),
) -> Table:
    """The table of some rows.

    Args:
        columns: heads of the cells that tell rows apart.
        metrics: at the last epoch, or at the evaluation ``read``.
        baseline: row that the others are tested against; no test with ``read``.
        lead: columns before the metrics: head and a cell for each row.
        notes: lines below the table, before those about the numbers.
    """
    heads = [*columns, "runs", *(name for name, _ in lead), *map(head, metrics)]
    rows = [
        [*group.cells, str(len(group.records)), *(cells[i] for _, cells in lead)]
        + [cell(group.values(metric, read), metric) for metric in metrics]
        for i, group in enumerate(groups)
    ]
    said = [
        *notes,
        f"Mean ± standard deviation over seeds, in percent, {read or 'the last epoch'} of each run.",
    ]
    found = [] if read else against(groups, baseline)
    if any(found):
        heads += ["mAP difference [95 %]", "p"]
        corrected = iter(holm([test.p for test in found if test]))
        for row, test in zip(rows, found):
            row += [_difference(test), f"{next(corrected):.2g}"] if test else ["", ""]
        said.append(
            f"Difference to {groups[baseline].label} by query (mean over seeds), paired t-test over "
            f"{next(test.queries for test in found if test)} queries, p by Holm. It tells these networks apart; what "
            "another seed would change is the deviation."
        )
    commands = [(group.label, group.records[0].command) for group in groups]
    return Table(title, heads, rows, said, commands, len(columns))


def _difference(test: Paired) -> str:
    return f"{100 * test.difference:+.1f} [{100 * test.low:+.1f}, {100 * test.high:+.1f}]"


def correlations(records: Sequence[Record]) -> list[str]:
    """How well each criterion ranks runs, and the epochs of a run, by the mAP that the labels give; lines of text."""
    last = [e.values for record in records if (e := record.read()) and "mAP" in e.values]
    across = _ranked([last], mean=False)
    curves = [[e.values for e in record.evaluations if e.epoch and "mAP" in e.values] for record in records]
    within = _ranked(curves, mean=True)
    lines = [
        (f"Rank correlation (Spearman) with mAP over {len(last)} runs, last epoch", across),
        ("Over the epochs of a run, mean of the runs", within),
    ]
    return [f"{title}: {', '.join(found)}." for title, found in lines if found]


def _ranked(series: Sequence[Sequence[Mapping[str, float]]], *, mean: bool) -> list[str]:
    """The correlation of each criterion with mAP, a mean over series of values with how many there are."""
    found = []
    for name in CRITERIA:
        known = [[(v[name], v["mAP"]) for v in each if name in v] for each in series]
        values = [rank_correlation(*zip(*each)) for each in known if len(each) >= CORRELATED]
        values = [value for value in values if math.isfinite(value)]
        if values:
            count = f" ({len(values)})" if mean else f" ({len(known[0])})" * (len(known[0]) < len(series[0]))
            found.append(f"{name} {sum(values) / len(values):+.2f}{count}")
    return found
