"""A stop between two reports alters no row, doubles none and loses none."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Engine

from crossreid.engine.training.handlers import Monitor, Stopped
from tests.tiny import overrides, train

RUN = ["CAMERA_AWARE.SOURCE_EPOCHS", "0", "DATALOADER.ITERS_PER_EPOCH", "8", "LOG.PERIOD", "4"]


def rows(out: Path) -> list[dict[str, Any]]:
    lines = (out / "logs" / "demo" / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if "per_second" not in k} for line in lines]


def test_stopped_at_step_6_of_a_period_of_4(
    domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = (overrides(domains, tmp_path / name, *RUN) for name in ("straight", "broken"))
    train("configs/demo.yml", straight)
    add_step = Monitor.add_step

    def interrupted(monitor: Monitor, engine: Engine) -> None:
        if engine.state.iteration == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        add_step(monitor, engine)

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "add_step", interrupted)
        with pytest.raises(Stopped):
            train("configs/demo.yml", broken)
    assert [row["step"] for row in rows(tmp_path / "broken")] == [4]
    train("configs/demo.yml", [*broken, "RESUME", "auto"])
    assert rows(tmp_path / "broken") == rows(tmp_path / "straight")
