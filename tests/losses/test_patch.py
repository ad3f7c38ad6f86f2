"""PAUL's losses: golden arrays, loops, few centres, far features, equal points, images without partner."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossreid.losses.patch import ipfl, nearest_positive_triplet, pedal
from tests.golden_arrays import relative, settings

TYPES = [(torch.float64, 1e-9), (torch.float32, 1e-4)]  # pedal: a difference of two near-equal logarithms


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("golden", settings("paul_pedal"))
def test_pedal_matches_the_original(golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float) -> None:
    features = golden["feature"].to(dtype).clone().requires_grad_()
    centers, scale, k = golden["centers"].to(dtype), float(golden["scale"]), int(golden["k"])
    loss = pedal(features, centers, golden["position"], scale=scale, k=k)
    loss.backward()
    assert loss.dtype == dtype
    assert relative(loss, golden["loss"]) < tolerance
    assert relative(features.grad, golden["grad_feature"]) < tolerance


def _slow_patch(features: Tensor, centers: Tensor, index: Tensor, scale: float, k: int) -> Tensor:
    losses = []
    for f_patch, c_patch in zip(features, centers):
        for f, own in zip(f_patch, index.tolist()):
            others = [j for j in range(len(c_patch)) if j != own]
            d = {j: (f - c_patch[j]).square().sum() for j in others}
            near = sorted(others, key=lambda j: d[j].item())[:k]
            top = sum(torch.exp(-scale * d[j]) for j in near)
            bottom = sum(torch.exp(-scale * x) for x in d.values())
            losses.append(-torch.log(top / bottom))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("k", [1, 3, 7, 8])
def test_patch_losses_match_the_loop(k: int) -> None:
    features = F.normalize(_random(2, 4, 5), dim=2).requires_grad_()
    centers, index = 0.8 * F.normalize(_random(2, 9, 5, seed=1), dim=2), torch.tensor([0, 8, 3, 3])
    mine = pedal(features, centers, index, scale=6.0, k=k)
    theirs = _slow_patch(features, centers, index, 6.0, k)
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-10, abs=1e-14)
    gradients = [torch.autograd.grad(x, features)[0] for x in (mine, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 2, 4, 5])
def test_no_more_others_than_neighbours_give_exactly_zero(rows: int) -> None:
    features = _random(2, 3, 5).requires_grad_()
    value = pedal(features, _random(2, rows, 5, seed=1), torch.tensor([0, 0, 0]), scale=15, k=4)
    value.backward()
    assert value.item() == 0
    assert not features.grad.any()


def test_far_features_and_autocast_stay_finite_in_float32() -> None:
    """Lengths near 20 at scale 15: every exponential underflows."""
    features, centers = _random(2, 4, 64) * 2.5, _random(2, 30, 64, seed=1) * 2.5
    expected = pedal(features, centers, torch.tensor([0, 1, 2, 29]), scale=15, k=3)
    single = features.float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = pedal(single, centers.float(), torch.tensor([0, 1, 2, 29]), scale=15, k=3)
    value.backward()
    assert bool(single.grad.isfinite().all())
    assert relative(value, expected) < 1e-4


def test_half_precision_and_autocast_compute_in_float32() -> None:
    half, centers = (
        F.normalize(_random(2, 4, 5), dim=2).half(),
        F.normalize(_random(2, 9, 5, seed=1), dim=2).half(),
    )
    index, numbers = torch.tensor([0, 1, 2, 8]), {"scale": 1, "k": 3}
    plain = pedal(half.float(), centers.float(), index, **numbers)
    assert plain.item() > 0.1
    assert torch.equal(pedal(half, centers, index, **numbers), plain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pedal(half.float(), centers.float(), index, **numbers), plain)


def test_pedal_over_known_rows_is_pedal_without_the_others() -> None:
    features, centers = _random(2, 3, 5).requires_grad_(), _random(2, 9, 5, seed=1)
    known = torch.tensor([True, False, True, True, False, True, True, True, False])
    own, own_left = torch.tensor([0, 5, 7]), torch.tensor([0, 3, 5])
    for k in (2, 7):  # fewer and more than the other known rows
        mine = pedal(features, centers, own, scale=2.0, k=k, known=known)
        left = pedal(features, centers[:, known], own_left, scale=2.0, k=k)
        torch.testing.assert_close(mine, left)
        torch.testing.assert_close(*(torch.autograd.grad(x, features)[0] for x in (mine, left)))


def test_ipfl_of_a_share_of_the_images() -> None:
    """Two shares of a batch, each with the centres of all, average to the whole."""
    features, centers = _random(12, 4), _random(6, 4, seed=1)
    numbers = {"views": 2, "margin": 2.0, "max_rank": 15, "nearest": 2}
    whole = ipfl(features, centers, **numbers)
    shares = [ipfl(features[6 * r : 6 * r + 6], centers, first=3 * r, **numbers) for r in (0, 1)]
    torch.testing.assert_close(torch.stack(shares).mean(), whole)
    with pytest.raises(ValueError, match="for 6 centres"):
        ipfl(features, centers, first=1, **numbers)


def test_patch_losses_refuse_no_neighbours() -> None:
    with pytest.raises(ValueError, match="k must be 1 or more"):
        pedal(_random(1, 2, 3), _random(1, 5, 3), torch.tensor([0, 1]), scale=1, k=0)


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("golden", settings("paul_ipfl"))
def test_ipfl_matches_the_original(golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float) -> None:
    features = golden["feature"].to(dtype).clone().requires_grad_()
    centers, margin = golden["centers"].to(dtype), float(golden["margin"])
    numbers = {
        "views": int(golden["num"]),
        "max_rank": int(golden["max_iter"]),
        "nearest": int(golden["nearest"]),
    }
    loss = ipfl(features, centers, margin=margin, **numbers)
    loss.backward()
    assert loss.dtype == dtype
    assert relative(loss, golden["loss"]) < tolerance
    assert relative(features.grad, golden["grad_feature"]) < tolerance


def _slow_ipfl(f: Tensor, c: Tensor, views: int, margin: float, max_rank: int, nearest: int) -> Tensor:
    losses = []
    for a in range(len(f)):
        own = a // views
        d = [(f[a] - x).norm() for x in c]
        visited = sorted((j for j in range(len(c)) if j != own), key=lambda j: d[j].item())[:max_rank]
        negative = f.new_zeros(())
        for j in visited:
            closest = sorted(range(len(c)), key=lambda x: (x != j, (c[j] - c[x]).norm().item()))[:nearest]
            if own not in closest:
                negative = d[j]
                break
        losses.append((margin + d[own] - negative).clamp_min(0))
    return torch.stack(losses).mean()


@pytest.mark.parametrize(
    ("images", "max_rank", "nearest"),
    [(8, 15, 3), (8, 2, 4), (3, 15, 3), (1, 15, 3), (6, 0, 1), (4, 15, 0), (1, 15, 0)],
)
def test_ipfl_matches_the_loop(images: int, max_rank: int, nearest: int) -> None:
    features = _random(images * 3, 4).requires_grad_()
    centers = features.detach().unflatten(0, (images, 3)).mean(1) + 0.3 * _random(images, 4, seed=1)
    mine = ipfl(features, centers, views=3, margin=2.0, max_rank=max_rank, nearest=nearest)
    theirs = _slow_ipfl(features, centers, 3, 2.0, max_rank, nearest)
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(x, features)[0] for x in (mine, theirs)))


def test_ipfl_with_two_equal_centres() -> None:
    """Centre 2 equals centre 0 and heads its own list all the same, so that a list of one holds it alone."""
    centers = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    features = centers + torch.tensor([[0.5, 0.0], [0.0, 0.0], [0.0, 0.5]], dtype=torch.float64)
    loss = ipfl(features, centers, views=1, margin=1.0, max_rank=15, nearest=1)
    # view 0 pushes from centre 2, view 2 from centre 0, each as near as its own; view 1 is beyond the margin
    assert loss.item() == pytest.approx((1 + 0 + 1) / 3)


def test_ipfl_at_its_own_centre_has_a_finite_gradient() -> None:
    features = _random(5, 4).requires_grad_()
    ipfl(features, features.detach(), views=1, margin=2.0, max_rank=15, nearest=2).backward()
    assert bool(features.grad.isfinite().all())
    assert features.grad.any()
    with pytest.raises(ValueError, match="5 features in 2 views"):
        ipfl(features, features.detach(), views=2, margin=2.0, max_rank=15, nearest=2)


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("golden", settings("paul_triplet_hard"))
def test_nearest_positive_matches_the_original(
    golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    x = golden["x"].to(dtype).clone().requires_grad_()
    numbers = {
        "margin": float(golden["margin"]),
        "eps": float(golden["eps"]),
        "normalize": bool(golden["norm"]),
    }
    loss = nearest_positive_triplet(x, golden["labels"], **numbers)
    loss.backward()
    assert relative(loss, golden["loss"]) < tolerance
    assert relative(x.grad, golden["grad_x"]) < tolerance


@pytest.mark.parametrize("pids", [[0, 0, 1, 1, 1, 2], [0, 1, 2, 3, 4, 5], [7] * 6])
@pytest.mark.parametrize("normalize", [False, True])
def test_nearest_positive_matches_the_loop(pids: list[int], normalize: bool) -> None:
    """Images without a positive or without a negative contribute 0 to the mean over all; of equally near positives
    one takes the gradient, of negatives each its share."""
    x = _random(6, 4)
    x[3] = x[2]  # a duplicate is a positive at distance sqrt(eps)
    x.requires_grad_()
    unit = x / x.norm(dim=1, keepdim=True) if normalize else x
    losses = []
    for i in range(6):
        d = [((unit[i] - y).square().sum() + 1e-5).sqrt() for y in unit]
        positives = [d[j] for j in range(6) if pids[j] == pids[i] and j != i]
        negatives = [d[j] for j in range(6) if pids[j] != pids[i]]
        hinge = 0 * x.sum()
        if positives and negatives:
            hinge = 1 + min(positives, key=torch.Tensor.item) - torch.stack(negatives).min()
        losses.append(hinge.clamp_min(0))
    expected = torch.stack(losses).mean()
    loss = nearest_positive_triplet(x, torch.tensor(pids), margin=1.0, normalize=normalize)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(y, x)[0] for y in (loss, expected)))
