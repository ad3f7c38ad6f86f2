"""BAU's losses: golden arrays, a loop, pairs and domains that lack."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossreid.losses.alignment import align, domain_uniform, uniform, weights
from tests.golden_arrays import relative, settings

TYPES = [(torch.float64, 1e-9), (torch.float32, 1e-5)]


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("golden", settings("bau"))
def test_bau_matches_the_original(golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float) -> None:
    weight = weights(golden["weak"].to(dtype), golden["strong"].to(dtype), k=int(golden["k"]))
    assert relative(weight, golden["weight"]) < tolerance

    def domain(f: Tensor) -> Tensor:
        prototypes = golden["prototypes"].to(dtype)
        return domain_uniform(f, golden["domains"], prototypes, golden["prototype_domains"])

    terms: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "align": lambda w, s: align(w, s, golden["labels"], golden["weight"]),
        "uniform": lambda w, s: 0.5 * (uniform(w) + uniform(s)),
        "domain": lambda w, s: 0.5 * (domain(w) + domain(s)),
    }
    for name, term in terms.items():
        weak, strong = (golden[view].to(dtype).clone().requires_grad_() for view in ("weak", "strong"))
        loss = term(weak, strong)
        loss.backward()
        assert relative(loss, golden[name]) < tolerance
        assert relative(weak.grad, golden[f"grad_weak_{name}"]) < tolerance
        assert relative(strong.grad, golden[f"grad_strong_{name}"]) < tolerance


def test_align_without_weight_is_zero() -> None:
    weak = torch.rand(3, 2, requires_grad=True)
    loss = align(weak, torch.rand(3, 2), torch.arange(3), torch.zeros(3, 3))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not weak.grad.any()


def test_uniform_is_the_log_of_a_mean_over_pairs() -> None:
    x = F.normalize(torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    pairs = [torch.exp(-2 * (x[i] - x[j]).square().sum()) for i in range(5) for j in range(i)]
    assert relative(uniform(x), torch.stack(pairs).mean().log()) < 1e-12


def test_more_neighbours_than_views() -> None:
    weak, strong = F.normalize(torch.rand(2, 4)), F.normalize(torch.rand(2, 4))
    assert torch.allclose(weights(weak, strong, k=50), torch.ones(2, 2))


def test_domain_uniform_without_a_second_prototype_has_no_gradient() -> None:
    x = F.normalize(torch.rand(3, 2)).requires_grad_()
    zero = torch.zeros(3, dtype=torch.int64)
    loss = domain_uniform(x, zero, F.normalize(torch.rand(2, 2)), torch.tensor([0, 1]))
    loss.backward()
    assert bool(loss.isfinite())
    assert not x.grad.any()
