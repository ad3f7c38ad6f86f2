"""MetaBN: golden arrays, draws, number of domains, second derivatives, functional calls, autocast."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from crossreid.modeling import ModelError
from crossreid.modeling.meta_bn import MetaBatchNorm1d
from tests.golden_arrays import relative, settings


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("golden", settings("m3l_metabn"))
def test_matches_the_original(golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float) -> None:
    def check(actual: Tensor, name: str) -> None:
        assert relative(actual, golden[name]) < tolerance, name

    momentum = float(golden["bn_momentum"])
    norm = MetaBatchNorm1d(
        golden["weight"].numel(),
        momentum=None if math.isnan(momentum) else momentum,
        eps=float(golden["eps"]),
    ).to(dtype)
    for name in ("weight", "bias", "running_mean", "running_var"):
        norm.state_dict()[name].copy_(golden[name])
    inputs = {
        n: golden[f"x_{n}"].to(dtype).clone().requires_grad_() for n in ("first", "second", "third", "test")
    }

    y_first = norm(inputs["first"], store=0)
    (y_first * golden["cotangent_first"].to(dtype)).sum().backward()
    check(y_first, "y_first")
    check(inputs["first"].grad, "grad_x_first")
    check(norm.weight.grad, "grad_weight_first")
    check(norm.bias.grad, "grad_bias_first")
    check(norm.running_mean, "running_mean_after_first")
    check(norm.running_var, "running_var_after_first")
    check(norm(inputs["second"], store=1), "y_second")
    check(norm(inputs["third"]), "y_third")
    check(norm.running_mean, "running_mean_after_third")
    check(norm.running_var, "running_var_after_third")
    assert norm.num_batches_tracked == golden["num_batches_tracked_after_third"]
    for slot in range(2):
        check(norm.means[slot], f"meta_mean{slot + 1}")
        check(norm.vars[slot], f"meta_var{slot + 1}")
        check(norm.deviation(slot), f"normal_scale{slot + 1}")
        assert not norm.means[slot].requires_grad

    norm.zero_grad()
    samples = [golden["sample1"].to(dtype), golden["sample2"].to(dtype)]
    copies = norm.mixed(inputs["test"], samples=samples, lam=float(golden["lam"]))
    sum((copy * golden[f"cotangent_out{i + 1}"].to(dtype)).sum() for i, copy in enumerate(copies)).backward()
    for i, copy in enumerate(copies):
        check(copy, f"sample_out{i + 1}")
    check(inputs["test"].grad, "grad_x_test")
    check(norm.weight.grad, "grad_weight_sample")
    check(norm.bias.grad, "grad_bias_sample")
    check(norm.running_mean, "running_mean_after_sample")
    check(norm.running_var, "running_var_after_sample")
    assert norm.num_batches_tracked == golden["num_batches_tracked_after_sample"]
    check(norm.eval()(inputs["test"]), "y_eval")


def _batch(rows: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _trained(scale: str, domains: int = 3) -> MetaBatchNorm1d:
    norm = MetaBatchNorm1d(3, scale=scale).double()  # type: ignore[arg-type]
    for slot in reversed(range(domains)):
        norm(_batch(seed=slot) * 3 + 5 * slot, store=slot)
    return norm


@pytest.mark.parametrize("scale", ["variance", "std"])
def test_draws_have_the_stored_moments(scale: str) -> None:
    """With lam 1 the copies are the draws themselves; batch norm hides their moments, so they are read before it."""
    norm = _trained(scale)
    x = _batch(40_000)
    draws = [norm._draw(slot, x, torch.Generator().manual_seed(slot)) for slot in range(3)]
    for slot, draw in enumerate(draws):
        expected = norm.vars[slot] if scale == "variance" else norm.vars[slot].sqrt()
        torch.testing.assert_close(draw.std(0), expected, rtol=0.02, atol=0)
        torch.testing.assert_close(draw.mean(0), norm.means[slot], rtol=0, atol=float(0.03 * expected.max()))
    again = norm.mixed(x, lam=0.5, samples=draws)
    drawn = norm.mixed(x, lam=0.5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        again[0], drawn[0]
    )  # slot 0 comes first from the generator, whatever the order of storing
    assert len(drawn) == 3


def test_lam_is_uniform_and_shared() -> None:
    norm, x, zeros = _trained("std", domains=1), _batch(2), torch.zeros(2, 3).double()
    generator = torch.Generator().manual_seed(0)
    norm.eps, shares = 1.0, []  # with two rows (1 - lam) x and eps 1 the output tells lam
    for _ in range(300):
        (y,) = norm.mixed(x, samples=[zeros], generator=generator)
        deviation = y / (1 - y.square()).sqrt()  # = (1 - lam) (x - mean)
        share = 1 - deviation / (x - x.mean(0))
        torch.testing.assert_close(share, share.flatten()[0].expand(2, 3))
        shares.append(share[0, 0])
    quantiles = torch.stack(shares).detach().quantile(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).double())
    torch.testing.assert_close(quantiles, torch.linspace(0, 1, 5).double(), rtol=0, atol=0.08)


def test_dead_channel_keeps_draws_finite() -> None:
    for scale in ("variance", "std"):
        norm = MetaBatchNorm1d(3, scale=scale)  # type: ignore[arg-type]
        norm(torch.ones(4, 3), store=0)
        assert bool((norm.deviation(0) > 0).all())
        assert bool(norm.mixed(torch.randn(4, 3))[0].isfinite().all())


def test_evaluation_and_forgetting() -> None:
    norm = _trained("std", domains=2).eval()
    x = _batch(1)
    for copy in norm.mixed(x):
        assert torch.equal(copy, norm(x))
    assert norm(x, store=7).shape == (1, 3)
    assert sorted(norm.means) == [0, 1]  # evaluation stores nothing
    norm.train().forget()
    with pytest.raises(ModelError, match="no stored domain"):
        norm.mixed(_batch())


def test_what_does_not_fit_is_refused() -> None:
    norm = _trained("variance", domains=2)
    for call in (norm, norm.mixed):
        with pytest.raises(ModelError, match="batch of 1;"):
            call(_batch(1))
    with pytest.raises(ModelError, match="1 samples for 2 stored"):
        norm.mixed(_batch(), samples=[_batch()])
    with pytest.raises(ModelError, match="'sd'"):
        MetaBatchNorm1d(3, scale="sd")  # type: ignore[arg-type]


def test_second_derivatives_under_functional_call() -> None:
    norm, x = _trained("variance", domains=1), _batch(5, seed=3).requires_grad_()
    weight = torch.rand(3, dtype=torch.float64, requires_grad=True)
    sample = _batch(5, seed=4)

    class Mixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.norm(x, store=1), *self.norm.mixed(x, samples=[sample] * 2, lam=0.4)])

    norm(x, store=1)

    def call(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(module, {"norm.weight": weight}, (x,))

    module = Mixed()
    assert torch.autograd.gradcheck(call, (x, weight))
    assert torch.autograd.gradgradcheck(call, (x, weight))
    torch.testing.assert_close(norm.means[1], x.detach().mean(0))


def test_statistics_are_float32_under_autocast() -> None:
    norm, x = MetaBatchNorm1d(3), (_batch() + 20).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm(x, store=0)
        (copy,) = norm.mixed(x, samples=[x.float()], lam=0.3)
    assert y.dtype == copy.dtype == norm.vars[0].dtype == torch.float32
    torch.testing.assert_close(norm.vars[0], x.float().var(0, correction=0))
    torch.testing.assert_close(copy, y)
