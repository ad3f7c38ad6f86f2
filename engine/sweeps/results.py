"""What has come of a sweep: how each run ended, what each point reached, and the best of them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from crossreid.datasets.files import draft
from crossreid.engine.comparison.runs import Record, evaluations, read_run
from crossreid.engine.comparison.statistics import mean_deviation
from crossreid.engine.errors import InputError
from crossreid.engine.sweeps.asked import ORACLE
from crossreid.engine.sweeps.plan import Point, Run, Sweep

DONE, FAILED, PRUNED = "done", "failed", "pruned"


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Args:
        state: done, failed or pruned.
        code: the exit code of its last process.
        line: the last line that it printed.
        seconds: of its last process.
        attempts: launchers that have worked on it.
    """

    state: str
    code: int
    line: str
    seconds: float
    host: str
    attempts: int


class Results:
    """The runs of a sweep on disk."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.folder = sweep, sweep.folder / "ended"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._ended: dict[str, Ended] = {}
        self._records: dict[str, Record] = {}

    def ended(self, run: Run) -> Ended | None:
        """How a run ended, None while it has not."""
        if run.name not in self._ended:
            try:
                content = json.loads((self.folder / f"{run.name}.json").read_text(encoding="utf-8"))
            except FileNotFoundError:
                return None
            except (OSError, ValueError) as error:
                raise InputError(f"{self.folder / run.name}.json is damaged ({error}): remove it") from None
            self._ended[run.name] = Ended(**content)
        return self._ended[run.name]

    def write(self, run: Run, ended: Ended) -> None:
        """Keep how a run ended."""
        with draft(self.folder / f"{run.name}.json") as partial:
            partial.write_text(json.dumps(asdict(ended)), encoding="utf-8")

    def forget_failed(self, runs: Sequence[Run]) -> None:
        """Let failed runs be tried again."""
        for run in runs:
            if (ended := self.ended(run)) and ended.state == FAILED:
                (self.folder / f"{run.name}.json").unlink(missing_ok=True)
                del self._ended[run.name]

    def state(self, run: Run) -> str:
        """done, failed or pruned; empty while it has not ended."""
        ended = self.ended(run)
        return ended.state if ended else ""

    def over(self, point: Point) -> bool:
        """Whether nothing is left to do for a point: its runs have ended, or one of them was pruned."""
        states = [self.state(run) for run in self.sweep.runs(point)]
        return all(states) or PRUNED in states

    def record(self, run: Run) -> Record:
        """What a finished run has left."""
        if run.name not in self._records:
            self._records[run.name] = read_run(self.logs(run))
        return self._records[run.name]

    def logs(self, run: Run) -> Path:
        return self.sweep.folder / "logs" / run.name

    def finished(self, point: Point) -> list[Record]:
        """The records of a point's finished runs."""
        return [self.record(run) for run in self.sweep.runs(point) if self.state(run) == DONE]

    def score(self, point: Point) -> float:
        """Mean objective over the seeds; NaN unless all of them are done."""
        found = self.finished(point)
        if len(found) < len(self.sweep.seeds):
            return math.nan
        values = [objective(record, self.sweep.objective) for record in found]
        return mean_deviation(values)[0] if all(map(math.isfinite, values)) else math.nan

    def progress(self, run: Run) -> list[tuple[int, float]]:
        """Epochs and objectives of a run so far, from its first trained epoch on; the oracle's is the mAP."""
        key = "mAP" if self.sweep.objective == ORACLE else self.sweep.objective
        found = evaluations(self.logs(run))
        return [(e.epoch, e.values[key]) for e in found if e.epoch and key in e.values]


def objective(record: Record, name: str) -> float:
    """What a run is judged by: a criterion at its last epoch, or its highest mAP (oracle: the labels choose)."""
    last = record.read()
    if name == ORACLE:
        return max((e.values.get("mAP", math.nan) for e in record.evaluations if e.epoch), default=math.nan)
    return last.values.get(name, math.nan) if last else math.nan
