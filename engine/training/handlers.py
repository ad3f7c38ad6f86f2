"""What happens around the steps of a run: ignite handlers in the order in which they are attached, and the monitor."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from yacs.config import CfgNode

from crossreid.engine.data import Data
from crossreid.engine.distributed import average_buffers, synchronise_gradients
from crossreid.engine.errors import NonFiniteLossError
from crossreid.engine.log import LOGGER, Means, progress_bar
from crossreid.engine.method import Method
from crossreid.engine.recorder import Recorder
from crossreid.engine.stopping import StopRequest
from crossreid.engine.training.summary import evaluation_title
from crossreid.engine.training.target import TargetEvaluation


class Monitor:
    """Reads the losses from the device every ``LOG.PERIOD`` steps, writes them down and stops the run on NaN.

    Args:
        done: steps finished before, 0 for a new run.
        means: of the steps since the last report, restored with the run.
    """

    def __init__(
        self,
        cfg: CfgNode,
        data: Data,
        method: Method,
        recorder: Recorder,
        done: int = 0,
        means: Means | None = None,
    ) -> None:
        self.cfg, self.data, self.method, self.recorder = cfg, data, method, recorder
        self.means, self.length = means or Means(), len(data.streams)
        self.total = self.length * cfg.SOLVER.EPOCHS
        self.bar = progress_bar(
            self.total, "training", initial=done, smoothing=0.05, enabled=data.ranks.first
        )
        self._time, self._images, self._first = time.monotonic(), 0, (done, time.monotonic())

    def start_epoch(self, engine: Engine) -> None:
        self.bar.set_description(f"epoch {engine.state.epoch}/{self.cfg.SOLVER.EPOCHS}")
        self._time, self._images = time.monotonic(), self.data.seen["images"]

    def add_step(self, engine: Engine) -> None:
        """Add a step's values to the means; report at the period's end and the epoch's.

        Raises:
            NonFiniteLossError: a loss since the last report was NaN or infinite.
        """
        values: Any = engine.state.output
        self.means.add(engine.state.iteration, values)
        self.bar.update()
        self._estimate(engine.state.iteration)
        position = (engine.state.iteration - 1) % self.length + 1
        if position % self.cfg.LOG.PERIOD == 0 or position == self.length:
            self.report(engine, position)

    def report(self, engine: Engine, position: int) -> None:
        """Write the means since the last report; waits for the device."""
        values, bad = self.means.read()
        if bad:
            raise NonFiniteLossError(self.describe(bad))
        now, state = time.monotonic(), engine.state
        images = (self.data.seen["images"] - self._images) * self.data.ranks.world
        speed = images / max(now - self._time, 1e-9)
        self._time, self._images = now, self.data.seen["images"]
        rate = float(self.method.scheduler.get_last_lr()[-1])
        self.recorder.add(
            state.iteration,
            {f"train/{k}": v for k, v in {**values, "lr": rate, "images_per_second": speed}.items()},
        )
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        where = f"epoch {state.epoch}/{self.cfg.SOLVER.EPOCHS} step {position}/{self.length}"
        LOGGER.info("%s  %s  lr %.3g  %.0f images/s", where, shown, rate, speed)

    def check(self) -> None:
        """Raise NonFiniteLossError where a loss since the last report was NaN or infinite; waits for the device."""
        if bad := self.means.bad_step():
            raise NonFiniteLossError(self.describe(bad))

    def _estimate(self, step: int) -> None:
        """Say once when the run will be done, from the steps between the third and the thirteenth."""
        since = step - self._first[0]
        if since == 2:
            self._first = (self._first[0], time.monotonic())
        if since == 12 and step < self.total:
            left = (time.monotonic() - self._first[1]) / 10 * (self.total - step)
            end = time.strftime("%H:%M", time.localtime(time.time() + left))
            LOGGER.info(
                "about %s of steps left, evaluations come on top: done towards %s", duration(left), end
            )

    def describe(self, step: int) -> str:
        """Which images a step saw, for the message about NaN."""
        seen = []
        for stream, rows in self.data.rows(step).items():
            paths = self.data.domains[stream].images.split.paths
            seen.append(f"{stream} {', '.join(Path(paths[i]).name for i in rows[:3])} … ({len(rows)} images)")
        return (
            f"the loss is not finite at step {step} (rank {self.data.ranks.rank}; {'; '.join(seen)}); the last "
            "checkpoint is from before: lower SOLVER.LR, or set SOLVER.AMP bfloat16 or float32"
        )


def duration(seconds: float) -> str:
    """A time for people: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class Stopped(Exception):
    """All ranks agreed to stop on a signal; the checkpoint is written."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@dataclass(frozen=True)
class Handlers:
    """The handlers of a run.

    Args:
        done: steps finished before, 0 for a new run.
        save: writes checkpoints: engine, also=..., mid_epoch=...
    """

    cfg: CfgNode
    method: Method
    monitor: Monitor
    evaluation: TargetEvaluation
    stop: StopRequest
    save: Callable[..., None]
    done: int

    def attach(self, engine: Engine) -> None:
        for event, handler in (
            (Events.STARTED, self.evaluate_at_start),
            (Events.EPOCH_STARTED, self.prepare_epoch),
            (Events.ITERATION_STARTED, self.seed_step),
            (Events.ITERATION_STARTED, self.exchange_last_of_group),
            (Events.ITERATION_COMPLETED, self.monitor.add_step),
            (Events.ITERATION_COMPLETED, self.stop.poll),
            (Events.ITERATION_COMPLETED, self.stop_in_epoch),
            (Events.EPOCH_COMPLETED, self.finish_epoch),
        ):
            engine.add_event_handler(event, handler)

    def evaluate_at_start(self, engine: Engine) -> None:
        if self.cfg.TEST.AT_START and not self.done:
            self.evaluate(engine, "start")

    def prepare_epoch(self, engine: Engine) -> None:
        if engine.state.iteration % self.monitor.length == 0:  # not when resuming in the middle of an epoch
            self.method.prepare(engine.state.epoch)
        self.monitor.start_epoch(engine)

    def seed_step(self, engine: Engine) -> None:
        """Random numbers of a step come from (seed, step, rank), so that a resumed run draws the same."""
        torch.manual_seed(
            (self.cfg.SEED * 1_000_003 + engine.state.iteration) * 4099 + self.monitor.data.ranks.rank
        )

    def exchange_last_of_group(self, engine: Engine) -> None:
        """Steps whose gradients are only added up need not exchange them."""
        last = engine.state.iteration % self.cfg.SOLVER.ACCUMULATE == 0
        synchronise_gradients(self.method.state["model"], last)

    def stop_in_epoch(self, engine: Engine) -> None:
        """Save and leave after a signal, where accumulated gradients are complete; an epoch's end saves by itself."""
        position = engine.state.iteration % self.monitor.length
        if self.stop.agreed() and position and position % self.cfg.SOLVER.ACCUMULATE == 0:
            self.monitor.check()  # no report: the row of the period is written once, when the period ends
            self.save(engine, mid_epoch=True)
            raise Stopped(self.stop.agreed())

    def finish_epoch(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        average_buffers(self.method.state["model"], self.monitor.data.ranks)
        self.method.scheduler.step()
        title = evaluation_title(self.cfg, self.method, epoch)
        chosen = self.evaluate(engine, title) if title else ()
        due = epoch % self.cfg.CHECKPOINT.PERIOD == 0 or epoch == self.cfg.SOLVER.EPOCHS
        if chosen or due or self.stop.agreed():
            self.save(engine, also=chosen)
        if self.stop.agreed():
            raise Stopped(self.stop.agreed())

    def evaluate(self, engine: Engine, title: str) -> tuple[str, ...]:
        """Score the target and draw the method's pictures; the checkpoints that this state is chosen for."""
        chosen = self.evaluation.score(engine, title)
        if self.monitor.data.ranks.first:
            self.monitor.recorder.draw(engine.state.iteration, engine.state.epoch, self.method.pictures())
        return chosen
