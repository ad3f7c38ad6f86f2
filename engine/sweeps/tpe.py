"""Points that Optuna's TPE proposes; its journal in the sweep's folder is shared by all launchers."""

from __future__ import annotations

import json
import math
import sys
import warnings
from typing import Any

from crossreid.configs import ConfigError
from crossreid.configs.checks import get
from crossreid.engine.sweeps.claims import Claims
from crossreid.engine.sweeps.plan import ROW, Point, Sweep, load_run
from crossreid.engine.sweeps.results import FAILED, PRUNED, Results
from crossreid.engine.sweeps.space import Axis

REFUSED = "refused"  # by the config


class Proposals:
    """The study of a sweep.

    One launcher at a time asks for the next point, the one that holds the claim of its number, so that a point's
    number and the seed that it was drawn with are the same whoever asks.
    """

    def __init__(self, sweep: Sweep, results: Results, claims: Claims) -> None:
        import optuna

        self.sweep, self.results, self.claims = sweep, results, claims
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        lock = optuna.storages.journal.JournalFileOpenLock if sys.platform == "win32" else None
        path = str(sweep.folder / "optuna.journal")
        backend = optuna.storages.journal.JournalFileBackend(path, lock and lock(path))
        self.study = optuna.create_study(
            study_name="sweep", direction="maximize", load_if_exists=True,
            storage=optuna.storages.JournalStorage(backend),
        )  # fmt: skip

    def points(self) -> list[Point]:
        """All points so far, in the order of their numbers, without those whose config is refused."""
        found = []
        for trial in self.study.get_trials(deepcopy=False):
            if len(trial.params) == len(self.sweep.axes) and REFUSED not in trial.user_attrs:
                values = {axis.key: _decoded(axis, trial.params[axis.key]) for axis in self.sweep.axes}
                found.append(Point(tuple(values.items()), trial.number))
        return found

    def complete(self) -> bool:
        """Whether no more points will come."""
        trials = self.study.get_trials(deepcopy=False)
        return len(trials) >= self.sweep.trials and self._unfinished() is None

    def propose(self) -> bool:
        """Ask for one more point; False where all are there, or another launcher is asking."""
        trials, left = self.study.get_trials(deepcopy=False), self._unfinished()
        number = len(trials) if left is None else left.number
        if number >= self.sweep.trials:
            return False
        claim = self.claims.take(f"ask-{number:03d}")
        if claim is None:
            return False
        if left is not None or len(self.study.get_trials(deepcopy=False)) == number:
            self._ask(number, left)
        claim.release()
        return True

    def _unfinished(self) -> Any:
        """A point whose launcher was killed while it asked for its values, or is asking."""
        import optuna

        running = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        return next((t for t in running if len(t.params) < len(self.sweep.axes)), None)

    def _ask(self, number: int, left: Any) -> None:
        import optuna

        if number == 0 and left is None:
            self.study.enqueue_trial(self._base())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.sampler = optuna.samplers.TPESampler(
                seed=self.sweep.sampler_seed * 100_003 + number, multivariate=True, constant_liar=True,
                n_startup_trials=min(10, max(4, self.sweep.trials // 3)),
            )  # fmt: skip
        trial = self.study.ask() if left is None else optuna.trial.Trial(self.study, left._trial_id)
        values = tuple((axis.key, _suggest(trial, axis)) for axis in self.sweep.axes)
        try:
            for run in self.sweep.runs(Point(values, trial.number)):
                load_run(self.sweep, run.overrides)
        except ConfigError as error:
            trial.set_user_attr(REFUSED, str(error))
            self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)

    def _base(self) -> dict[str, Any]:
        """The values of the config itself, where they lie within the axes: the first point."""
        known = {}
        for axis in self.sweep.axes:
            if axis.key == ROW:
                known[axis.key] = _encoded(axis, axis.values[0])
                continue
            value = get(self.sweep.base, axis.key)
            if value in axis.values or (not axis.values and axis.low <= value <= axis.high):
                known[axis.key] = _encoded(axis, value)
        return known

    def tell(self) -> None:
        """Tell the study what its points have reached."""
        import optuna

        waiting = {
            trial.number: trial
            for trial in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        }
        for point in self.points():
            if point.number not in waiting or not self.results.over(point):
                continue
            states = [self.results.state(run) for run in self.sweep.runs(point)]
            score = self.results.score(point)
            if PRUNED in states:
                self._report(waiting[point.number], point)
                self.study.tell(point.number, state=optuna.trial.TrialState.PRUNED, skip_if_finished=True)
            elif FAILED in states or not math.isfinite(score):
                self.study.tell(point.number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
            else:
                self.study.tell(point.number, score, skip_if_finished=True)

    def _report(self, trial: Any, point: Point) -> None:
        """The last value of a pruned point: what TPE learns from it."""
        import optuna

        for run in self.sweep.runs(point):
            found = self.results.progress(run)
            if self.results.state(run) == PRUNED and found:
                optuna.trial.Trial(self.study, trial._trial_id).report(found[-1][1], found[-1][0])


def _suggest(trial: Any, axis: Axis) -> Any:
    if axis.values:
        return _decoded(axis, trial.suggest_categorical(axis.key, [_encoded(axis, v) for v in axis.values]))
    suggest = trial.suggest_int if axis.whole else trial.suggest_float
    return suggest(axis.key, axis.low, axis.high, log=axis.log)


def _encoded(axis: Axis, value: Any) -> Any:
    """A choice as Optuna keeps it; lists as text."""
    return json.dumps(value) if axis.values and isinstance(value, list) else value


def _decoded(axis: Axis, value: Any) -> Any:
    lists = axis.values and isinstance(axis.values[0], list)
    return json.loads(value) if lists else value
