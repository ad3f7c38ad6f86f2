"""Memories of clusters: the mean update, rows that come and go; the controlled patch memory against its program."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossreid.modeling.cluster_memory import ClusterMemory
from crossreid.modeling.controlled_memory import ControlledPatchMemory
from crossreid.modeling.memory import FeatureMemory
from tests.golden_arrays import relative, settings
from tests.no_sync import NoSync
from tests.ranks import run_ranks


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("golden", settings("cfl_controlled_memory"))
def test_the_controller_matches_the_original(
    golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    gain, integral, derivative = golden["gains"].tolist()
    patches, rows, dim = golden["fill"].shape
    memory = ControlledPatchMemory(
        rows, patches, dim, gain=gain, integral=integral, derivative=derivative, dtype=dtype
    )
    memory.features.copy_(golden["fill"])
    for features, index, expected in zip(golden["features"], golden["index"], golden["memory"]):
        memory.update(features.to(dtype), index)
        assert relative(memory.features, expected) < tolerance


def _mean_rows(rows: Tensor, x: Tensor, index: Tensor, keep: float) -> Tensor:
    rows = rows.clone()
    for i in index.unique().tolist():
        rows[i] = F.normalize(keep * rows[i] + (1 - keep) * x[index == i].mean(0), dim=0)
    return rows


def test_the_mean_update_moves_each_row_once() -> None:
    memory = FeatureMemory(4, 3, dtype=torch.float64)
    memory.features.copy_(F.normalize(torch.rand(4, 3, dtype=torch.float64)))
    x, index = F.normalize(torch.rand(5, 3, dtype=torch.float64)), torch.tensor([2, 0, 2, 2, 1])
    expected = _mean_rows(memory.features, x, index, 0.1)
    with NoSync():
        memory.update(x, index, keep=0.1, mean=True)
    assert relative(memory.features, expected) < 1e-12


def _halves(rank: int, world: int, x: Tensor, index: Tensor, mode: str) -> Tensor:
    memory = FeatureMemory(4, 3)
    own = slice(rank * len(x) // world, (rank + 1) * len(x) // world)
    memory.update(x[own], index[own], keep=0.1, **{mode: True})
    return memory.features


@pytest.mark.ddp
@pytest.mark.parametrize("mode", ["mean", "hardest"])
def test_two_ranks_move_as_one(mode: str) -> None:
    x, index = F.normalize(torch.rand(6, 3)), torch.tensor([2, 0, 2, 2, 1, 0])
    alone = _halves(0, 1, x, index, mode)
    for rows in run_ranks(_halves, 2, x, index, mode):
        assert torch.equal(rows, alone)


def test_rows_come_and_go() -> None:
    memory = ClusterMemory(3, torch.device("cpu"))
    memory.replace(F.normalize(torch.rand(5, 3)))
    again = ClusterMemory(3, torch.device("cpu"))
    again.load_state_dict(memory.state_dict())
    assert torch.equal(again.rows.features, memory.rows.features)
    with pytest.raises(ValueError, match="this run's rows have 2 numbers"):
        ClusterMemory(2, torch.device("cpu")).load_state_dict(memory.state_dict())
