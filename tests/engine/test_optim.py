"""Learning-rate schedules by hand, optimizer groups, and precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import configs
from engine.errors import InputError
from engine.optim import Precision, build_optimizer, build_scheduler, rate_factor

FLAT = {
    "epochs": 10,
    "scheduler": "multistep",
    "steps": [4, 8],
    "gamma": 0.1,
    "warmup": 0,
    "warmup_factor": 0.01,
}


def test_multistep() -> None:
    rates = [rate_factor(e, **FLAT) for e in range(10)]
    assert rates == pytest.approx([1] * 4 + [0.1] * 4 + [0.01] * 2)


def test_warmup_rises_linearly() -> None:
    rates = [rate_factor(e, **{**FLAT, "warmup": 4, "steps": [6], "warmup_factor": 0.2}) for e in range(8)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 0.1, 0.1])


def test_cosine_after_warmup() -> None:
    rates = [
        rate_factor(e, **{**FLAT, "scheduler": "cosine", "warmup": 2, "warmup_factor": 0.5})
        for e in range(10)
    ]
    expected = [0.5, 0.75] + [0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]
    assert rates == pytest.approx(expected)


def test_groups_and_schedule() -> None:
    cfg = configs.load(None, ["SOLVER.STEPS", "[1]", "SOLVER.LR", "0.02", "SOLVER.NEW_LR", "0.3"])
    old, new, frozen = nn.Linear(2, 2), nn.Linear(2, 3), nn.Parameter(torch.zeros(1), requires_grad=False)
    optimizer = build_optimizer(cfg, [*old.parameters(), frozen], new.parameters())
    scheduler = build_scheduler(cfg, optimizer)
    assert [(g["lr"], len(g["params"]), g["momentum"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (0.02, 2, 0.9, 5e-4), (0.3, 2, 0.9, 5e-4),
    ]  # fmt: skip
    optimizer.step()
    scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.002, 0.03])


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_other_optimizers(name: str) -> None:
    cfg = configs.load(None, ["SOLVER.OPTIMIZER", name])
    layer = nn.Linear(2, 2)
    optimizer = build_optimizer(cfg, [], layer.parameters())
    assert type(optimizer).__name__.lower() == name
    before = layer.weight.clone()
    Precision("float32", torch.device("cpu")).step(layer(torch.ones(1, 2)).sum(), optimizer)
    assert not torch.equal(layer.weight, before)


def test_precision() -> None:
    layer, cpu = nn.Linear(4, 4), torch.device("cpu")
    for amp, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with Precision(amp, cpu).autocast():
            assert layer(torch.ones(2, 4)).dtype == dtype
    with pytest.raises(InputError, match=r"float16 needs a GPU.*bfloat16"):
        Precision("float16", cpu)
