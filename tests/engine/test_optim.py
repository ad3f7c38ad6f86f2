"""Learning-rate schedules by hand, optimizer groups, and precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from crossreid import configs
from crossreid.engine.errors import InputError
from crossreid.engine.optim import (
    Precision,
    build_optimizer,
    build_scheduler,
    rate_factor,
    training_precision,
)

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
    groups = [([*old.parameters(), frozen], cfg.SOLVER.LR), (new.parameters(), cfg.SOLVER.NEW_LR)]
    optimizer = build_optimizer(cfg, groups)
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
    optimizer = build_optimizer(cfg, [([], 1.0), (layer.parameters(), cfg.SOLVER.NEW_LR)])
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


def moved(losses: list[torch.Tensor], layer: nn.Module, **options: float) -> torch.Tensor:
    """Weights after the losses went through ``Precision.step`` with plain SGD at rate 1."""
    precision = Precision("float32", torch.device("cpu"), **options)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    for loss in losses:
        precision.step(loss, optimizer)
    return next(layer.parameters()).detach().clone()


def test_accumulated_gradients_are_the_mean_and_only_whole_groups_move_the_weights() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, -1.0], [5.0, 5.0]])

    def weights(rows: int, accumulate: int) -> list[float]:
        layer = nn.Linear(2, 1, bias=False)
        nn.init.zeros_(layer.weight)
        losses = [layer(x[i]).sum() for i in range(rows)]
        return moved(losses, layer, accumulate=accumulate).flatten().tolist()

    assert weights(1, 2) == [0, 0]
    assert weights(2, 2) == [-2, -0.5]
    assert weights(3, 2) == [-2, -0.5]  # the third begins a new group
    assert weights(3, 3) == pytest.approx([-3, -2])


def test_gradients_are_clipped_to_a_common_length() -> None:
    def weights(scale: float, clip: float) -> list[float]:
        layer = nn.Linear(2, 1, bias=False)
        nn.init.zeros_(layer.weight)
        return moved([scale * layer(torch.tensor([3.0, 4.0])).sum()], layer, clip=clip).flatten().tolist()

    assert weights(1, 0) == [-3, -4]
    assert weights(1, 10) == [-3, -4]
    assert weights(1, 1) == pytest.approx([-0.6, -0.8], rel=1e-5)
    assert weights(100, 1) == pytest.approx([-0.6, -0.8], rel=1e-5)


def test_the_scaled_gradients_of_float16_are_clipped_at_their_true_length() -> None:
    layer = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(layer.weight)
    precision = Precision("float32", torch.device("cpu"), clip=1.0)
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, fused=True)
    precision.step(layer(torch.tensor([3.0, 4.0])).sum(), optimizer)
    assert layer.weight.flatten().tolist() == pytest.approx([-0.6, -0.8], rel=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_fused_steps_equal_plain_ones(name: str) -> None:
    cfg = configs.load(None, ["SOLVER.OPTIMIZER", name, "SOLVER.NEW_LR", "0.01"])
    layers = [nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    built = build_optimizer(cfg, [([], 1.0), (layers[0].parameters(), cfg.SOLVER.NEW_LR)])
    assert built.defaults["fused"]
    options = {k: v for k, v in built.param_groups[0].items() if k in ("lr", "weight_decay", "momentum")}
    plain = type(built)(layers[1].parameters(), **options)
    for step in range(3):
        for layer, optimizer in zip(layers, (built, plain)):
            torch.manual_seed(step)
            optimizer.zero_grad()
            layer(torch.randn(2, 3, 8, 8)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(layers[0].weight, layers[1].weight, rtol=1e-5, atol=1e-6)


def test_training_precision_reads_the_solver() -> None:
    cfg = configs.load(None, ["SOLVER.AMP", "bfloat16", "SOLVER.ACCUMULATE", "4", "SOLVER.GRAD_CLIP", "2.5"])
    found = training_precision(cfg, torch.device("cpu"))
    assert (found.dtype, found.accumulate, found.clip) == (torch.bfloat16, 4, 2.5)
