"""Handlers that watch the training steps: losses, speed, learning rate, and NaN."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from yacs.config import CfgNode

from engine.data import Data
from engine.errors import NonFiniteLossError
from engine.log import LOGGER, Bar, Means, Recorder
from engine.method import Method


class Monitor:
    """Reads the losses from the device every ``LOG.PERIOD`` steps, writes them down and stops the run on NaN."""

    def __init__(self, cfg: CfgNode, data: Data, method: Method, recorder: Recorder) -> None:
        self.cfg, self.data, self.method, self.recorder = cfg, data, method, recorder
        self.means, self.length = Means(), len(data.streams)
        self.bar = Bar(0, "")
        self._time, self._steps = time.monotonic(), 0

    def start_epoch(self, engine: Engine) -> None:
        self.bar = Bar(self.length, f"epoch {engine.state.epoch}", enabled=self.data.ranks.first)
        self.bar.update(engine.state.iteration % self.length)
        self._time, self._steps = time.monotonic(), 0

    def add_step(self, engine: Engine) -> None:
        """Add a step's values to the means; report at the period's end and the epoch's.

        Raises:
            NonFiniteLossError: a loss since the last report was NaN or infinite.
        """
        values: Any = engine.state.output
        self.means.add(engine.state.iteration, values)
        self.bar.update()
        self._steps += 1
        position = (engine.state.iteration - 1) % self.length + 1
        if position % self.cfg.LOG.PERIOD == 0 or position == self.length:
            self.report(engine, position)

    def report(self, engine: Engine, position: int) -> None:
        """Write the means since the last report; waits for the device."""
        values, bad = self.means.read()
        if bad:
            raise NonFiniteLossError(self.describe(bad))
        now, state = time.monotonic(), engine.state
        speed = self.cfg.DATALOADER.BATCH_SIZE * self._steps / max(now - self._time, 1e-9)
        self._time, self._steps = now, 0
        rate = self.method.scheduler.get_last_lr()[-1]
        self.recorder.add(
            state.iteration,
            {f"train/{k}": v for k, v in {**values, "lr": rate, "images_per_second": speed}.items()},
        )
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        where = f"epoch {state.epoch}/{self.cfg.SOLVER.EPOCHS} step {position}/{self.length}"
        LOGGER.info("%s  %s  lr %.3g  %.0f images/s", where, shown, rate, speed)

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
