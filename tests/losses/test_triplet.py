"""Batch-hard triplet: golden arrays, a loop, ties, duplicates, identities without partner, second derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crossreid.losses.distances import squared_distances
from crossreid.losses.triplet import batch_hard
from tests.golden_arrays import relative, settings


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("golden", settings("triplet_hard"))
def test_matches_the_original(golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float) -> None:
    x = golden["x"].to(dtype).clone().requires_grad_()
    loss = batch_hard(x, golden["labels"], margin=float(golden["margin"]))
    loss.backward()
    assert loss.dtype == dtype
    assert relative(loss, golden["loss"]) < tolerance
    assert relative(x.grad, golden["grad_x"]) < tolerance


def _slow(x: Tensor, pids: Tensor, margin: float) -> Tensor:
    losses = []
    for i in range(len(x)):
        d = [(x[i] - y).square().sum().clamp_min(1e-12).sqrt() for y in x]
        positive = torch.stack([d[j] for j in range(len(x)) if pids[j] == pids[i]]).max()
        negatives = [d[j] for j in range(len(x)) if pids[j] != pids[i]]
        hinge = (positive - torch.stack(negatives).min() + margin).clamp_min(0) if negatives else 0 * x.sum()
        losses.append(hinge)
    return torch.stack(losses).mean()


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "pids", [[0, 0, 1, 1, 2, 2, 2], [5, 0, 1, 1, 2, 3, 2], [4] * 7, [0, 1, 2, 3, 4, 5, 6]]
)
def test_matches_the_loop(pids: list[int]) -> None:
    x = _random(7, 5).requires_grad_()
    labels = torch.tensor(pids)
    loss, expected = batch_hard(x, labels, margin=0.3), _slow(x, labels, 0.3)
    torch.testing.assert_close(loss, expected)
    mine, theirs = torch.autograd.grad(loss, x)[0], torch.autograd.grad(expected, x)[0]
    torch.testing.assert_close(mine, theirs)


def test_ties_share_the_gradient_and_duplicates_have_none() -> None:
    """Anchor 0 at the origin: two positives at distance 2, two negatives at 1; images 5 and 6 are the same point."""
    x = torch.tensor([[0, 0], [2, 0], [-2, 0], [0, 1], [0, -1], [9, 9], [9, 9]], dtype=torch.float64)
    x.requires_grad_()
    pids = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    loss, expected = batch_hard(x, pids, margin=1.0), _slow(x, pids, 1.0)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], torch.autograd.grad(expected, x)[0])
    distances = squared_distances(x, x).clamp_min(1e-12).sqrt()
    (gradient,) = torch.autograd.grad(distances[0, :3].amax(), x, retain_graph=True)
    torch.testing.assert_close(
        gradient, torch.tensor([[0, 0], [0.5, 0], [-0.5, 0]] + [[0.0, 0]] * 4).double()
    )
    assert not torch.autograd.grad(distances[5, 6], x)[0].any()


def test_long_vectors_keep_small_distances_in_float32() -> None:
    """The expanded product is off by 0.03 here."""
    x = _random(6, 2048) * 0.01 + 1.0
    exact = (x[:, None] - x).square().sum(2)
    assert relative(squared_distances(x.float(), x.float()), exact) < 1e-5
    single = x.float().requires_grad_()
    batch_hard(single, torch.tensor([0, 0, 1, 1, 2, 2]), margin=0.3).backward()
    double = x.clone().requires_grad_()
    batch_hard(double, torch.tensor([0, 0, 1, 1, 2, 2]), margin=0.3).backward()
    assert relative(single.grad, double.grad) < 1e-5


def test_gradients_of_first_and_second_order() -> None:
    x, y, pids = (
        _random(4, 3).requires_grad_(),
        _random(5, 3, seed=1).requires_grad_(),
        torch.tensor([0, 0, 1, 1]),
    )
    assert torch.autograd.gradcheck(squared_distances, (x, y))
    assert torch.autograd.gradgradcheck(squared_distances, (x, y))
    assert torch.autograd.gradgradcheck(lambda x: batch_hard(x, pids, margin=2.0), x)
    same = torch.zeros(
        4, 3, dtype=torch.float64, requires_grad=True
    )  # one point: clamped, finite at second order
    (first,) = torch.autograd.grad(batch_hard(same, pids, margin=1.0), same, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), same, allow_unused=True)
    assert not first.any()
    assert second is None or not second.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(dtype: torch.dtype) -> None:
    x, pids = (_random(6, 64) * 100).to(dtype), torch.tensor([0, 0, 1, 1, 2, 2])  # squares overflow float16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = batch_hard(x, pids, margin=0.3)
    assert torch.equal(loss, batch_hard(x.float(), pids, margin=0.3))
    assert bool(loss.isfinite())
