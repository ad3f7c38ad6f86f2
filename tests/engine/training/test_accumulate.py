"""Accumulated steps: whole groups an epoch, exact resume between groups, and the same on several ranks."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from crossreid.engine.distributed import Ranks, agree, parallel, synchronise_gradients
from crossreid.engine.errors import InputError
from crossreid.engine.optim import Precision
from crossreid.engine.training.handlers import Monitor, Stopped
from crossreid.modeling.weights import read_checkpoint
from tests.ranks import run_ranks
from tests.tiny import differences, overrides, train

GROUPS = ["SOLVER.ACCUMULATE", "2", "DATALOADER.ITERS_PER_EPOCH", "5", "CAMERA_AWARE.SOURCE_EPOCHS", "1"]


def checkpoint(out: Path) -> dict[str, Any]:
    content = read_checkpoint(out / "checkpoints" / "demo" / "last.pt")
    content.pop("config")
    return content


def test_stopped_inside_a_group_ends_it_first_and_resumes_to_the_same_bytes(
    domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train("configs/demo.yml", overrides(domains, straight, *GROUPS))
    assert checkpoint(straight)["engine"] == {
        "iteration": 8,
        "epoch_length": 4,
    }  # 5 steps hold two whole groups
    steps = {int(state["step"]) for state in checkpoint(straight)["optimizer"]["state"].values()}
    assert steps == {4}
    add_step = Monitor.add_step

    def add_and_stop(self: Monitor, engine: Engine) -> None:
        add_step(self, engine)
        if engine.state.iteration == 5:  # the first half of a group
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Monitor, "add_step", add_and_stop)
    with pytest.raises(Stopped):
        train("configs/demo.yml", overrides(domains, broken, *GROUPS))
    monkeypatch.undo()
    assert checkpoint(broken)["engine"]["iteration"] == 6
    train("configs/demo.yml", overrides(domains, broken, *GROUPS, "RESUME", "auto"))
    assert differences(checkpoint(broken), checkpoint(straight)) == []


def _weights(rank: int, world: int, accumulate: int, static: bool, exchange: bool) -> list[torch.Tensor]:
    """Weights after two optimizer steps, each on the same eight rows however they are dealt out."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
    wrapped = parallel(network, Ranks(rank, world, torch.device("cpu")), static=static)
    precision = Precision("float32", torch.device("cpu"), accumulate=accumulate)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, fused=True)
    rows = torch.randn(2, accumulate, world, 8 // world // accumulate, 5)
    for step in range(2 * accumulate):
        group, part = divmod(step, accumulate)
        if exchange:
            synchronise_gradients(wrapped, part == accumulate - 1)
        precision.step(wrapped(rows[group, part, rank]).square().mean(), optimizer)
    return [p.detach() for p in network.parameters()]


def _sync_bn(ranks: Ranks) -> str:
    try:
        parallel(nn.BatchNorm1d(2), ranks, sync_bn=True)
    except InputError as error:
        return str(error)
    return ""


CASES = {  # accumulate, static graph, leave out the exchange of gradients inside a group
    "every step": (1, False, False),
    "every step, static graph": (1, True, False),
    "pairs": (2, False, False),
    "pairs, one exchange": (2, False, True),
}


def _on_a_rank(rank: int, world: int) -> dict[str, Any]:
    ranks = Ranks(rank, world, torch.device("cpu"))
    found: dict[str, Any] = {name: _weights(rank, world, *case) for name, case in CASES.items()}
    return {**found, "agree": (agree(7, ranks), agree(rank, ranks)), "sync_bn": _sync_bn(ranks)}


@pytest.mark.ddp
def test_two_ranks_equal_one_and_know_what_differs() -> None:
    expected = _weights(0, 1, 1, False, False)
    for found in run_ranks(_on_a_rank, 2):
        for name in CASES:
            for a, b in zip(found[name], expected):
                torch.testing.assert_close(a, b, msg=name)
        assert found["agree"] == (True, False)
        assert "MODEL.SYNC_BN true needs GPUs" in found["sync_bn"]
