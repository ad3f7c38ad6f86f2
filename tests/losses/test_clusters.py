"""Cluster contrast: golden arrays of the memory over several steps and of the joint memory; labels with holes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossreid.losses.clusters import centroids, contrast
from crossreid.modeling.memory import FeatureMemory
from tests.golden_arrays import relative, settings

TYPES = [(torch.float64, 1e-9), (torch.float32, 2e-5)]


def _memory(rows: Tensor) -> FeatureMemory:
    memory = FeatureMemory(*rows.shape, dtype=rows.dtype)
    memory.features.copy_(rows)
    return memory


@pytest.mark.parametrize("mode", ["plain", "hard"])
@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("golden", settings("cluster_memory_steps"))
def test_an_epoch_matches_the_original(
    golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float, mode: str
) -> None:
    centres = centroids(golden["features"].to(dtype), golden["labels"])
    assert relative(centres, golden["centres"]) < tolerance
    memory = _memory(golden["centres"].to(dtype))
    for step, (x, targets) in enumerate(zip(golden["x"], golden["targets"])):
        leaf = x.to(dtype).clone().requires_grad_()
        unit = F.normalize(leaf)
        loss = contrast(memory.similarity(unit), targets, temperature=float(golden["temp"]))
        loss.backward()
        memory.update(unit, targets, keep=float(golden["momentum"]), hardest=mode == "hard")
        assert relative(loss, golden[f"loss_{mode}_{step}"]) < tolerance
        assert relative(leaf.grad, golden[f"grad_x_{mode}_{step}"]) < tolerance
        assert relative(memory.features, golden[f"memory_{mode}_{step}"]) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("golden", settings("joint_memory"))
def test_the_joint_memory_gives_the_true_gradient(
    golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    memory, first = _memory(golden["memory"].to(dtype)), golden["source_classes"]
    leaves = {name: golden[f"x_{name}"].to(dtype).clone().requires_grad_() for name in ("source", "target")}
    rows = torch.cat([golden["y_source"], golden["y_target"] + first])
    units = F.normalize(torch.cat(list(leaves.values())))
    similarity, size = memory.similarity(units), len(golden["y_source"])
    losses = {
        "source": contrast(similarity[:size], rows[:size], temperature=float(golden["temp"])),
        "target": contrast(similarity[size:], rows[size:], temperature=float(golden["temp"])),
    }
    (losses["source"] + losses["target"]).backward()
    memory.update(units, rows, keep=float(golden["momentum"]))
    for name in leaves:
        assert relative(losses[name], golden[f"loss_{name}"]) < tolerance
        assert relative(leaves[name].grad, golden[f"grad_{name}"]) < tolerance
    assert relative(memory.features, golden["memory_after"]) < tolerance


@pytest.mark.parametrize("labels", [[-1, -1, -1], [0, 2, 2]])
def test_labels_with_holes_are_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="without holes"):
        centroids(torch.rand(3, 2), torch.tensor(labels))


def test_one_cluster_has_no_loss() -> None:
    x = torch.rand(3, 1, requires_grad=True)
    loss = contrast(x, torch.zeros(3, dtype=torch.int64), temperature=0.05)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not x.grad.any()


def test_half_precision_is_raised() -> None:
    similarity = torch.rand(4, 5, dtype=torch.float16)
    assert contrast(similarity, torch.arange(4), temperature=0.05).dtype == torch.float32
