"""Memories: golden arrays, a loop over the batch, ties, rounds, half-precision banks, two ranks against
one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossreid.losses.neighborhood import camera_aware
from crossreid.modeling import ModelError
from crossreid.modeling.memory import FeatureMemory, PatchMemory
from crossreid.modeling.split_norm import SplitBatchNorm1d
from tests.golden_arrays import relative, settings
from tests.no_sync import NoSync
from tests.ranks import run_ranks


def _memory(rows: Tensor) -> FeatureMemory:
    memory = FeatureMemory(*rows.shape, dtype=rows.dtype)
    memory.features.copy_(rows)
    return memory


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _loop(rows: Tensor, features: Tensor, index: Tensor, keep: float) -> Tensor:
    rows = rows.clone()
    for x, i in zip(features, index.tolist()):
        row = keep * rows[i] + (1 - keep) * x
        rows[i] = row / row.norm()
    return rows


TYPES = [(torch.float64, 1e-9), (torch.float32, 1e-5)]


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("golden", settings("exemplar_memory_update"))
def test_exemplar_memory_matches_the_original(
    golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    memory = _memory(golden["memory"].to(dtype))
    x, targets, keep = (
        golden["x"].to(dtype).clone().requires_grad_(),
        golden["targets"],
        float(golden["momentum"]),
    )
    similarity = memory.similarity(x)
    similarity.backward(golden["grad_output"].to(dtype))
    memory.update(x, targets, keep=keep)
    assert relative(similarity, golden["output"]) < tolerance
    assert relative(x.grad, golden["grad_x"]) < tolerance
    assert not memory.features.requires_grad
    once = torch.tensor([(targets == t).sum() == 1 for t in range(len(golden["memory"]))])
    untouched = torch.tensor([t not in targets for t in range(len(golden["memory"]))])
    assert relative(memory.features[once], golden["memory_after"][once]) < tolerance
    assert torch.equal(memory.features[untouched], golden["memory"][untouched].to(dtype))
    # Rows that occur twice are undefined in the original; here they move in batch order.
    expected = _loop(golden["memory"], golden["x"], targets, keep)
    assert relative(memory.features, expected) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("golden", settings("m3l_memory"))
def test_identity_memory_matches_the_original(
    golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    memory = _memory(golden["memory"].to(dtype))
    x = golden["x"].to(dtype).clone().requires_grad_()
    loss = F.cross_entropy(memory.similarity(x) / float(golden["temp"]), golden["targets"])
    loss.backward()
    memory.update(golden["x_update"].to(dtype), golden["targets_update"], keep=float(golden["momentum"]))
    assert relative(loss, golden["loss"]) < tolerance
    assert relative(x.grad, golden["grad_x"]) < tolerance
    assert relative(memory.features, golden["memory_after_update"]) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("golden", settings("cluster_memory"))
def test_cluster_memory_matches_the_original(
    golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    memory = _memory(golden["memory"].to(dtype))
    x = golden["x"].to(dtype).clone().requires_grad_()
    unit = F.normalize(x)
    loss = F.cross_entropy(memory.similarity(unit) / float(golden["temp"]), golden["targets"])
    loss.backward()
    hardest = bool(golden["use_hard"])
    memory.update(unit, golden["targets"], keep=float(golden["momentum"]), hardest=hardest)
    assert relative(loss, golden["loss"]) < tolerance
    assert relative(x.grad, golden["grad_x"]) < tolerance
    assert relative(memory.features, golden["memory_after"]) < tolerance


@pytest.mark.parametrize("golden", settings("ecn_invariance"))
def test_ecn_update_matches_the_original(golden: dict[str, Tensor]) -> None:
    memory = _memory(golden["memory"])
    keep = float(golden["alpha"]) * int(golden["epoch"])
    memory.update(golden["x"], golden["targets"], keep=keep)
    assert relative(memory.features, golden["memory_after"]) < 1e-9


@pytest.mark.parametrize("rounds", [None, 5, 9])
@pytest.mark.parametrize("keep", [0.0, 0.3, 1.0])
def test_repeated_rows_move_in_batch_order(keep: float, rounds: int | None) -> None:
    rows, features = F.normalize(_random(9, 5)), _random(12, 5, seed=1)
    index = torch.tensor([3, 0, 3, 3, 8, 0, 3, 1, 3, 8, 5, 0])
    memory = _memory(rows)
    memory.update(features, index, keep=keep, rounds=rounds)
    assert relative(memory.features, _loop(rows, features, index, keep)) < 1e-14
    assert torch.equal(memory.features[[2, 4, 6, 7]], rows[[2, 4, 6, 7]])


def test_rounds_bound_the_occurrences_that_count() -> None:
    rows, features, index = F.normalize(_random(4, 5)), _random(5, 5, seed=1), torch.tensor([2, 1, 2, 2, 1])
    memory = _memory(rows)
    memory.update(features, index, keep=0.5, rounds=2)
    assert relative(memory.features, _loop(rows, features[[0, 1, 2, 4]], index[[0, 1, 2, 4]], 0.5)) < 1e-14


def test_hardest_takes_the_least_similar_and_the_first_of_equals() -> None:
    memory = _memory(torch.eye(3, dtype=torch.float64))
    features = torch.tensor(
        [[0.8, 0.6, 0.0], [0.6, 0.8, 0.0], [0.6, 0.0, 0.8], [0.0, 0.6, 0.8]], dtype=torch.float64
    )
    memory.update(features, torch.tensor([0, 0, 0, 2]), keep=0.5, hardest=True)
    expected = torch.tensor([[1.6, 0.8, 0.0], [0, 1, 0], [0.0, 0.6, 1.8]], dtype=torch.float64)
    torch.testing.assert_close(memory.features, F.normalize(expected))


def test_a_broken_feature_spoils_no_other_row() -> None:
    features = torch.eye(4)[[0, 1, 2]]
    features[0, 2] = torch.nan
    for hardest in (False, True):
        memory = FeatureMemory(3, 4)
        memory.update(features, torch.tensor([1, 0, 1]), keep=0.5, hardest=hardest)
        assert memory.features.isnan().any(dim=1).tolist() == [False, True, False]


def test_zero_vectors_stay_finite_and_half_features_are_raised() -> None:
    memory = FeatureMemory(3, 4)
    memory.update(torch.zeros(2, 4), torch.tensor([1, 1]), keep=0.0)
    assert not memory.features.any()
    features = _random(2, 4).bfloat16()
    memory.update(features, torch.tensor([0, 2]), keep=0.6)
    torch.testing.assert_close(memory.features[[0, 2]], F.normalize(features.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        similarity = memory.similarity(features)
    assert torch.equal(similarity, features.float() @ memory.features.T)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_bank(dtype: torch.dtype) -> None:
    """Gradients of the size 1/N^2 survive the half-precision product; the update rounds once."""
    rows, features = F.normalize(_random(50, 16)).to(dtype), F.normalize(_random(4, 16, seed=1)).float()
    memory, tolerance = _memory(rows), 2e-3 if dtype == torch.float16 else 2e-2
    x = features.clone().requires_grad_()
    similarity = memory.similarity(x)
    assert similarity.dtype == torch.float32
    assert relative(similarity, features @ rows.float().T) < tolerance
    upstream = _random(4, 50, seed=2).float() * 1e-9
    similarity.backward(upstream)
    assert relative(x.grad, upstream @ rows.float()) < tolerance
    index = torch.tensor([7, 7, 3, 0])
    memory.update(features, index, keep=0.6)
    assert torch.equal(memory.features, _loop(rows.float(), features, index, 0.6).to(dtype))


def test_memory_is_in_the_checkpoint_and_no_parameter() -> None:
    memory = FeatureMemory(3, 2)
    assert list(memory.state_dict()) == ["features"]
    assert not list(memory.parameters())
    assert memory.double().features.dtype == torch.float64


def test_what_does_not_fit_is_refused() -> None:
    memory, patches = FeatureMemory(3, 4), PatchMemory(3, 2, 4)
    with pytest.raises(ModelError, match=r"keep 1\.2"):
        memory.update(torch.zeros(2, 4), torch.tensor([0, 1]), keep=1.2)
    with pytest.raises(ModelError, match=r"features \(2, 5\)"):
        memory.update(torch.zeros(2, 5), torch.tensor([0, 1]), keep=0.5)
    with pytest.raises(ModelError, match=r"index \(3,\)"):
        memory.update(torch.zeros(2, 4), torch.tensor([0, 1, 2]), keep=0.5)
    with pytest.raises(ModelError, match=r"features \(3, 2, 4\)"):
        patches.update(torch.zeros(3, 2, 4), torch.tensor([0, 1]), keep=0.5)
    with pytest.raises(ModelError, match="0 rows"):
        FeatureMemory(0, 4)


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("golden", settings("paul_patch_memory"))
def test_patch_memory_matches_the_original(
    golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    """The original appends an entry for a new key; ours has a row for every image and overwrites it first."""
    calls, views, keep = int(golden["n_calls"]), int(golden["num"]), 1 - float(golden["momentum"])
    patches, _, dim = golden["call0_feat"].shape
    rows = golden[f"call{calls - 1}_agent"].shape[1]
    memory, image_memory = (
        PatchMemory(rows, patches, dim, dtype=dtype),
        PatchMemory(rows, 1, patches * dim, dtype=dtype),
    )
    seen: set[int] = set()
    for call in range(calls):
        features = golden[f"call{call}_feat"].to(dtype)
        mean = features.unflatten(1, (-1, views)).mean(dim=2).transpose(0, 1).flatten(1)[None]  # [1, B, K D]
        position = golden[f"call{call}_position"]
        for i, row in enumerate(
            position.tolist()
        ):  # one image a call: the image memory returns the value after each
            part, first = position[i : i + 1], keep if row in seen else 0.0
            memory.update(features[:, i * views, None], part, keep=first)
            image_memory.update(mean[:, i, None], part, keep=first)
            seen.add(row)
            agent = golden[f"call{call}_image_agent"][i]
            assert relative(image_memory.features[0, row], agent) < tolerance
        expected = golden[f"call{call}_agent"]
        assert relative(memory.features[:, : expected.shape[1]], expected) < tolerance


@pytest.mark.parametrize("keep", [0.0, 0.9])
def test_patch_memory_moves_repeated_rows_in_batch_order(keep: float) -> None:
    rows, features, index = _random(2, 6, 3), _random(2, 5, 3, seed=1), torch.tensor([4, 1, 4, 4, 1])
    memory = PatchMemory(6, 2, 3, dtype=torch.float64)
    memory.features.copy_(rows)
    memory.update(features, index, keep=keep, rounds=3)
    for i, row in enumerate(index.tolist()):
        rows[:, row] = keep * rows[:, row] + (1 - keep) * features[:, i]
    torch.testing.assert_close(memory.features, rows, rtol=1e-14, atol=1e-14)


def test_update_never_waits_when_the_rounds_are_known() -> None:
    memory, patches, index = FeatureMemory(7, 3), PatchMemory(7, 2, 3), torch.tensor([1, 5, 1])
    x = torch.rand(3, 3, requires_grad=True)
    with NoSync():
        memory.similarity(x).sum().backward()
        memory.update(x, index, keep=0.5, rounds=2)
        memory.update(x, index, keep=0.5, hardest=True)
        patches.update(x.expand(2, 3, 3), index, keep=0.9, rounds=2)
    with pytest.raises(AssertionError, match="wait"), NoSync():
        memory.update(x, index, keep=0.5)


def _updates(rank: int, world: int) -> dict[str, Tensor]:
    """Each rank's share of the same batches; rows repeat within and across ranks."""
    memory, patches = FeatureMemory(7, 5), PatchMemory(7, 2, 5)
    hard, half = FeatureMemory(7, 5, dtype=torch.float64), FeatureMemory(7, 5, dtype=torch.float16)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        features = torch.randn(8, 5, generator=generator)
        patch = torch.randn(2, 8, 5, generator=generator)
        index = torch.randint(7, (8,), generator=generator)
        mine = slice(rank * 8 // world, (rank + 1) * 8 // world)
        memory.update(features[mine], index[mine], keep=0.6 if step else 0.0)
        hard.update(features[mine].double(), index[mine], keep=0.2, hardest=True)
        half.update(features[mine].half(), index[mine], keep=0.2, rounds=8)
        patches.update(patch[:, mine], index[mine], keep=0.9 if step else 0.0)
    return {
        "memory": memory.features,
        "hard": hard.features,
        "half": half.features,
        "patches": patches.features,
    }


def _steps(rank: int, world: int) -> dict[str, Tensor]:
    """Three steps of a linear network with split norm, memory and camera-aware loss on a share of each half."""
    weight, norm = _random(5, 5, seed=1).requires_grad_(), SplitBatchNorm1d(5, sync=True).double()
    memory, memory_cams = _memory(F.normalize(_random(11, 5))), torch.arange(11) % 3
    for step in range(3):
        x, index = _random(16, 5, seed=step), (torch.arange(8) * (step + 2)) % 11
        rows = slice(rank * 8 // world, (rank + 1) * 8 // world)
        source, target = norm(torch.cat([x[:8][rows], x[8:][rows]]) @ weight)
        features, own = F.normalize(target), index[rows]
        similarity = memory.similarity(features)
        intra, inter = camera_aware(similarity, own, memory_cams[own], memory_cams, scale=10, eps=0.8)
        loss = intra + 0.5 * inter + source.pow(4).mean()
        (gradient,) = torch.autograd.grad(loss, weight)
        if world > 1:
            torch.distributed.all_reduce(gradient)
        with torch.no_grad():
            weight -= gradient / world
        memory.update(features, own, keep=0.6 if step else 0.0)
    return {
        "weight": weight.detach(),
        "rows": memory.features,
        "mean": norm.running_mean,
        "var": norm.running_var,
    }


def _both(rank: int, world: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return _updates(rank, world), _steps(rank, world)


@pytest.mark.ddp
def test_two_ranks_equal_one_on_the_joined_batch() -> None:
    updates, steps = _both(0, 1)
    ranks = run_ranks(_both, 2)
    for rank_updates, rank_steps in ranks:
        for name, rows in updates.items():
            assert torch.equal(rank_updates[name], rows), name
        for name, expected in steps.items():
            torch.testing.assert_close(rank_steps[name], expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(ranks[0][1]["rows"], ranks[1][1]["rows"])


def test_rows_that_begin_at_their_first_update() -> None:
    """The first of two visits in one batch overwrites, the second moves; known rows are moved by both."""
    memory = PatchMemory(4, 1, 2, dtype=torch.float64, begin=True)
    memory.update(torch.full((1, 1, 2), 8.0, dtype=torch.float64), torch.tensor([3]), keep=0.5)
    new = torch.tensor([[[4.0, 0.0], [0.0, 4.0], [2.0, 2.0]]], dtype=torch.float64)
    memory.update(new, torch.tensor([1, 1, 3]), keep=0.5)
    expected = torch.tensor([[0.0, 0.0], [2.0, 2.0], [0.0, 0.0], [5.0, 5.0]], dtype=torch.float64)
    assert torch.equal(memory.features[0], expected)
    assert memory.visited.tolist() == [False, True, False, True]
