"""The differentiable Adam step: golden arrays, both meta-gradients, missing gradients, inputs unchanged."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossreid.engine.methods.m3l_inner import inner_adam
from tests.golden_arrays import relative, settings

NAMES = ("fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias")
GOLDEN = settings("m3l_inner_adam")
TYPES = [(torch.float64, 1e-9), (torch.float32, 4e-5)]


def _group(golden: dict[str, Tensor], prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: golden[f"{prefix}_{name}"].to(dtype).clone() for name in NAMES}


def _numbers(golden: dict[str, Tensor]) -> dict[str, object]:
    betas = (float(golden["beta1"]), float(golden["beta2"]))
    return {"lr": float(golden["lr_inner"]), "weight_decay": float(golden["weight_decay"]), "betas": betas}


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("golden", GOLDEN)
def test_plain_update_matches_the_original(
    golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    params, grads = _group(golden, "param", dtype), _group(golden, "grad", dtype)
    before = {n: (params[n].clone(), grads[n].clone()) for n in NAMES}
    updated = inner_adam(params, grads, **_numbers(golden))  # type: ignore[arg-type]
    assert list(updated) == list(NAMES)
    for name in NAMES:
        assert updated[name].dtype == dtype
        assert relative(updated[name], golden[f"param_after_{name}"]) < tolerance
        assert torch.equal(params[name], before[name][0])
        assert torch.equal(grads[name], before[name][1])


def _loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    hidden = torch.tanh(F.linear(x, params["fc1_weight"], params["fc1_bias"]))
    return F.cross_entropy(F.linear(hidden, params["fc2_weight"], params["fc2_bias"]), y)


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("golden", GOLDEN)
@pytest.mark.parametrize("full", [False, True])
def test_meta_gradients_match_the_original(
    golden: dict[str, Tensor], full: bool, dtype: torch.dtype, tolerance: float
) -> None:
    """``full`` is the usual gradient; without it the parameters enter the update as constants."""
    params = {n: p.requires_grad_() for n, p in _group(golden, "param", dtype).items()}
    leaves = list(params.values())
    train = _loss(params, golden["x_train"].to(dtype), golden["y_train"])
    grads = dict(zip(NAMES, torch.autograd.grad(train, leaves, create_graph=True)))
    start = params if full else {n: p.detach() for n, p in params.items()}
    updated = inner_adam(start, grads, **_numbers(golden))  # type: ignore[arg-type]
    test = _loss(updated, golden["x_test"].to(dtype), golden["y_test"])
    meta = torch.autograd.grad(test, leaves, retain_graph=True)
    total = torch.autograd.grad(train + test, leaves)
    assert relative(train, golden["meta_train_loss"]) < tolerance
    assert relative(test, golden["meta_test_loss"]) < tolerance
    for name, gradient, final in zip(NAMES, meta, total):
        assert relative(grads[name], golden[f"meta_train_grad_{name}"]) < tolerance
        assert relative(updated[name], golden[f"meta_param_after_{name}"]) < tolerance
        expected = golden[f"{'samevar_' if full else ''}meta_test_grad_{name}"]
        assert relative(gradient, expected) < tolerance
        if not full:
            assert relative(final, golden[f"final_grad_{name}"]) < tolerance


def test_none_and_missing_gradients_count_as_zero() -> None:
    params = {"a": torch.tensor([2.0, -1.0]), "b": torch.tensor([3.0]), "c": torch.tensor([4.0])}
    updated = inner_adam(params, {"a": torch.zeros(2), "b": None}, lr=0.1, weight_decay=0.5)
    for name in params:
        decayed = 0.5 * params[name]
        expected = params[name] - 0.1 * decayed / ((decayed.square() + 1e-5).sqrt() + 1e-8)
        torch.testing.assert_close(updated[name], expected)
    with pytest.raises(ValueError, match="without a parameter: d"):
        inner_adam(params, {"d": torch.zeros(1)}, lr=0.1, weight_decay=0.0)


def test_zero_gradients_stay_finite_at_second_order() -> None:
    parameter = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    gradient = torch.tensor([0.0, 1e-9, 1.0], dtype=torch.float64, requires_grad=True)

    def step(p: Tensor, g: Tensor) -> Tensor:
        return inner_adam({"p": p}, {"p": g}, lr=0.1, weight_decay=5e-4)["p"]

    assert torch.autograd.gradcheck(step, (parameter, gradient), eps=1e-7)
    (first,) = torch.autograd.grad(step(parameter, gradient).sum(), gradient, create_graph=True)
    assert bool(torch.autograd.grad(first.sum(), gradient)[0].isfinite().all())
