"""A run as it lies on disk: its config, its evaluations and the average precision of each query."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossreid import configs
from crossreid.configs.loading import values_of
from crossreid.engine.errors import InputError

METRICS = ("mAP", "rank1", "rank5", "rank10", "mINP")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run.

    Args:
        title: ``start``, ``direct transfer``, ``training``, ``final``, ...
        values: fractions by name: mAP, rank1, ..., and the label-free criteria.
    """

    title: str
    epoch: int
    values: dict[str, float]


@dataclass(frozen=True)
class Record:
    """What is known of a run.

    Args:
        settings: every key of its config, dotted.
        aps: average precision of each query at its last evaluation, None where one has no match; empty if unknown.
        command: repeats it.
    """

    name: str
    folder: Path
    settings: dict[str, Any]
    evaluations: list[Evaluation]
    aps: list[float | None]
    command: str

    def read(self, title: str = "") -> Evaluation | None:
        """The last evaluation, or the last one of a title."""
        found = [e for e in self.evaluations if not title or e.title == title]
        return found[-1] if found else None


def find_runs(names: Sequence[str]) -> list[Path]:
    """Folders of logs: each ``logs/NAME`` itself, the run of a checkpoint, or all runs of a sweep or of ``logs``.

    Raises:
        InputError: nothing of a run is there.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name).expanduser()
        if path.is_file() and path.suffix == ".pt":
            path = path.parent.parent.parent / "logs" / path.parent.name
        places = [path, *sorted((path / "logs" if (path / "logs").is_dir() else path).glob("*/"))]
        if (path / "config.yml").is_file():
            places = places[:1]
        runs = [place for place in places if (place / "config.yml").is_file()]
        if not runs:
            raise InputError(f"{name}: no run there: give logs/NAME, a checkpoint, or the folder of a sweep")
        found += [run for run in runs if run not in found]
    return found


def read_run(folder: Path) -> Record:
    """What a run has left in its folder of logs.

    Raises:
        InputError: its config or metrics are damaged.
    """
    text = (folder / "config.yml").read_text(encoding="utf-8", errors="replace")
    cfg, _ = configs.restore(text, origin=str(folder / "config.yml"))
    command = _swept(folder) or f"crossreid train {folder / 'config.yml'} NAME {folder.name}-again"
    return Record(folder.name, folder, values_of(cfg), evaluations(folder), _aps(folder), command)


def evaluations(folder: Path) -> list[Evaluation]:
    """The evaluations in ``metrics.jsonl``; a last line that is being written is left out.

    Raises:
        InputError: a line is damaged.
    """
    path, found = folder / "metrics.jsonl", []
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n") or '"title"' not in line:
            continue
        try:
            entry = json.loads(line)
            values = {
                k.partition("/")[2]: float(v)
                for k, v in entry.items()
                if k.startswith(("target/", "criteria/"))
            }
            found.append(Evaluation(str(entry["title"]), int(entry.get("epoch", entry["step"])), values))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path}: line {number} is damaged") from None
    return found


def _aps(folder: Path) -> list[float | None]:
    try:
        content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        (entry,) = content.values()
        aps = entry["results"]["plain"]["per_query_ap"]
        return [None if ap is None else float(ap) for ap in aps]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # a run of an earlier version, or a target without labels


def _swept(folder: Path) -> str | None:
    """The command of a run of a sweep."""
    path = folder.parent.parent / "trials.csv"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        return next((row["command"] for row in csv.DictReader(file) if row.get("run") == folder.name), None)
