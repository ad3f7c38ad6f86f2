"""Generalised mean pooling against its published program."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crossreid.modeling.pooling import Average, GeM
from tests.golden_arrays import relative, settings


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("golden", settings("gem_pooling"))
def test_gem_matches_the_original(golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float) -> None:
    pool = GeM(float(golden["p"])).to(dtype)
    x = golden["x"].to(dtype).clone().requires_grad_()
    pooled = pool(x)
    (pooled * golden["grad_output"].to(dtype)).sum().backward()
    assert relative(pooled, golden["pooled"]) < tolerance
    assert relative(x.grad, golden["grad_x"]) < tolerance
    assert relative(pool.p.grad, golden["grad_p"]) < tolerance


def test_the_exponent_one_is_the_mean() -> None:
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(GeM(1.0)(x), Average()(x))
    assert Average()(x.half()).dtype == torch.float32
