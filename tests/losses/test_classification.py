"""Mixup cross-entropy with a virtual class: golden arrays, a loop, what is constant, half precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossreid.losses.classification import mixup_virtual_class
from tests.golden_arrays import relative, settings


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("golden", settings("cross_domain_mixup_loss"))
def test_matches_the_original(golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float) -> None:
    x = golden["x"].to(dtype).clone().requires_grad_()
    weight = golden["classifier_weight"].to(dtype).clone().requires_grad_()
    agents = golden["memory"].to(dtype)[golden["target_img_ids"]]
    loss = mixup_virtual_class(x, weight, golden["labels"], agents, float(golden["lambda_st"]))
    loss.backward()
    assert loss.dtype == dtype
    assert relative(loss, golden["loss"]) < tolerance
    assert relative(x.grad, golden["grad_x"]) < tolerance
    assert relative(weight.grad, golden["grad_classifier_weight"]) < tolerance


def _case() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (5, 4))
    agents = F.normalize(torch.randn(5, 6, generator=generator, dtype=torch.float64))
    return x, weight, torch.tensor([0, 3, 3, 1, 2]), agents


@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
def test_matches_the_loop(lam: float) -> None:
    x, weight, pids, agents = _case()
    losses = []
    for i in range(5):
        virtual = torch.dot(x[i], agents[i]) * weight[pids[i]].norm()
        p = torch.softmax(torch.cat([weight @ x[i], virtual[None]]), 0)
        losses.append(-lam * p[pids[i]].log() - (1 - lam) * p[4].log())
    loss = mixup_virtual_class(x, weight, pids, agents, torch.tensor(lam, dtype=torch.float64))
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-12)


def test_agents_and_row_lengths_are_constants() -> None:
    x, weight, pids, agents = (t.requires_grad_(t.is_floating_point()) for t in _case())
    mixup_virtual_class(x, weight, pids, agents, 0.3).backward()
    assert agents.grad is None
    # Without the virtual class's own gradient: the softmax over all C + 1 logits, times x.
    with torch.no_grad():
        virtual = (x * agents).sum(1) * weight[pids].norm(dim=1)
        p = torch.softmax(torch.cat([x @ weight.T, virtual[:, None]], dim=1), 1)[:, :4]
        expected = (p - 0.3 * F.one_hot(pids, 4)).T @ x / 5
    torch.testing.assert_close(weight.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_compute_in_float32(dtype: torch.dtype) -> None:
    x, weight, pids, agents = (t.to(dtype) if t.is_floating_point() else t for t in _case())
    plain = mixup_virtual_class(x.float(), weight.float(), pids, agents.float(), 0.3)
    assert torch.equal(mixup_virtual_class(x, weight, pids, agents, 0.3), plain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mixup_virtual_class(x, weight.float(), pids, agents, 0.3), plain)
    far = mixup_virtual_class(
        (x * 500).float(), weight.float(), pids, agents.float(), 0.3
    )  # logits beyond exp
    assert bool(far.isfinite())
