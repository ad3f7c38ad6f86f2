"""What happens around the steps of a run: ignite handlers, in the order in which they are attached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from ignite.engine import Engine, Events
from yacs.config import CfgNode

from engine.announce import evaluation_title
from engine.distributed import Ranks, StopRequest, average_buffers, synchronise_gradients
from engine.log import Recorder
from engine.method import Method
from engine.monitor import Monitor
from engine.target import TargetEvaluation


class Stopped(Exception):
    """All ranks agreed to stop on a signal; the checkpoint is written."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@dataclass(frozen=True)
class Handlers:
    """The handlers of a run.

    Args:
        length: steps an epoch.
        done: steps finished before, 0 for a new run.
        save: writes checkpoints: engine, best=..., mid_epoch=...
    """

    cfg: CfgNode
    ranks: Ranks
    method: Method
    monitor: Monitor
    evaluation: TargetEvaluation
    recorder: Recorder
    stop: StopRequest
    save: Callable[..., None]
    length: int
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
        if engine.state.iteration % self.length == 0:  # not when resuming in the middle of an epoch
            self.method.prepare(engine.state.epoch)
        self.monitor.start_epoch(engine)

    def seed_step(self, engine: Engine) -> None:
        """Random numbers of a step come from (seed, step, rank), so that a resumed run draws the same."""
        torch.manual_seed((self.cfg.SEED * 1_000_003 + engine.state.iteration) * 4099 + self.ranks.rank)

    def exchange_last_of_group(self, engine: Engine) -> None:
        """Steps whose gradients are only added up need not exchange them."""
        last = engine.state.iteration % self.cfg.SOLVER.ACCUMULATE == 0
        synchronise_gradients(self.method.state["model"], last)

    def stop_in_epoch(self, engine: Engine) -> None:
        """Save and leave after a signal, where accumulated gradients are complete; an epoch's end saves by itself."""
        position = engine.state.iteration % self.length
        if self.stop.agreed() and position and position % self.cfg.SOLVER.ACCUMULATE == 0:
            self.monitor.report(engine, position)
            self.save(engine, mid_epoch=True)
            raise Stopped(self.stop.agreed())

    def finish_epoch(self, engine: Engine) -> None:
        self.monitor.bar.close()
        epoch = engine.state.epoch
        average_buffers(self.method.state["model"], self.ranks)
        self.method.scheduler.step()
        title = evaluation_title(self.cfg, self.method, epoch)
        best = self.evaluate(engine, title) if title else False
        due = epoch % self.cfg.CHECKPOINT.PERIOD == 0 or epoch == self.cfg.SOLVER.EPOCHS
        if best or due or self.stop.agreed():
            self.save(engine, best=best)
        if self.stop.agreed():
            raise Stopped(self.stop.agreed())

    def evaluate(self, engine: Engine, title: str) -> bool:
        """Score the target and draw the method's pictures; True if no trained state was better before."""
        best = self.evaluation.score(engine, title)
        if self.ranks.first:
            self.recorder.draw(engine.state.iteration, engine.state.epoch, self.method.pictures())
        return best
