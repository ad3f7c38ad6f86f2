"""Split batch norm: golden array, eval, odd batches, autocast, functional calls, two ranks against one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from crossreid.modeling import ModelError
from crossreid.modeling.split_norm import SplitBatchNorm1d
from tests.golden_arrays import relative, settings
from tests.no_sync import NoSync
from tests.ranks import run_ranks


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("golden", settings("split_batch_norm"))
def test_matches_the_original(golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float) -> None:
    norm = SplitBatchNorm1d(
        golden["weight"].numel(), momentum=float(golden["momentum"]), eps=float(golden["eps"])
    ).to(dtype)
    for name in ("weight", "bias", "running_mean", "running_var"):
        norm.state_dict()[name].copy_(golden[name])
    x = golden["x"].to(dtype).clone().requires_grad_()
    source, target = norm(x)
    ((source * golden["cotangent_source"]).sum() + (target * golden["cotangent_target"]).sum()).backward()
    assert relative(source, golden["feat_source"]) < tolerance
    assert relative(target, golden["feat_target"]) < tolerance
    assert relative(x.grad, golden["grad_x"]) < tolerance
    assert relative(norm.weight.grad, golden["grad_weight"]) < tolerance
    assert relative(norm.running_mean, golden["running_mean_after"]) < tolerance
    assert relative(norm.running_var, golden["running_var_after"]) < tolerance
    assert norm.num_batches_tracked == golden["num_batches_tracked_after"]


def _batch(rows: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + 1


def test_evaluation_uses_the_running_statistics_for_both_halves() -> None:
    norm, x = SplitBatchNorm1d(4).double(), _batch()
    norm(x)
    before = norm.running_mean.clone()
    norm.eval()
    expected = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(torch.cat(norm(x)), expected)
    torch.testing.assert_close(norm.whole(x), expected)
    assert torch.equal(norm.running_mean, before)


def test_odd_batch_leaves_out_the_middle_row() -> None:
    norm, x = SplitBatchNorm1d(4).double(), _batch(7).requires_grad_()
    with NoSync():
        source, target = norm(x)
    assert source.shape == target.shape == (3, 4)
    torch.testing.assert_close(norm.running_mean, 0.1 * x[4:].mean(0))
    (source.square().sum() + target.pow(3).sum()).backward()
    assert not x.grad[3].any()
    assert x.grad[0].any()


@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_half_of_one_row_is_refused_in_training_only(rows: int) -> None:
    norm = SplitBatchNorm1d(4).double()
    with pytest.raises(ModelError, match=f"batch of {rows};"):
        norm(_batch(rows))
    assert norm.eval()(_batch(rows))[1].shape == (rows // 2, 4)


def test_statistics_are_float32_under_autocast_and_for_half_inputs() -> None:
    norm, x = SplitBatchNorm1d(4), (_batch() + 20).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        source, target = norm(x)
    assert source.dtype == target.dtype == torch.float32
    half = x[:4].float()
    expected = (half - half.mean(0)) / (half.var(0, unbiased=False) + norm.eps).sqrt()
    torch.testing.assert_close(source, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.running_mean, 0.1 * x[4:].float().mean(0))


def test_functional_call_and_second_derivatives() -> None:
    norm, x = SplitBatchNorm1d(4).double(), _batch().requires_grad_()
    weight = torch.rand(4, dtype=torch.float64, requires_grad=True)
    source, _ = torch.func.functional_call(norm, {"weight": weight}, (x,))
    torch.testing.assert_close(source.std(0, unbiased=False), weight.expand(4), rtol=1e-4, atol=0)
    assert torch.autograd.gradgradcheck(lambda x: torch.cat(norm(x)), x)


def _joined(rank: int, world: int, momentum: float | None) -> dict[str, Tensor]:
    """One step over the ranks: each holds its share of the source half and of the target half."""
    norm = SplitBatchNorm1d(4, sync=True, momentum=momentum).double()
    nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(1))
    out: dict[str, Tensor] = {}
    for step in range(2):
        x, cotangent = _batch(12, seed=step), _batch(12, seed=9)
        rows = slice(rank * 6 // world, (rank + 1) * 6 // world)
        mine = torch.cat([x[:6][rows], x[6:][rows]]).requires_grad_()
        source, target = norm(mine)
        norm.zero_grad()
        ((source * cotangent[:6][rows]).sum() + (target * cotangent[6:][rows]).sum()).backward()
        source_grad, target_grad = mine.grad.chunk(2)
        out |= {
            "source": source.detach(),
            "target": target.detach(),
            "dx_source": source_grad,
            "dx_target": target_grad,
        }
    out |= {"dweight": norm.weight.grad, "dbias": norm.bias.grad}
    return out | {f"stat_{name}": value for name, value in norm.named_buffers()}


def _both(rank: int, world: int) -> list[dict[str, Tensor]]:
    return [_joined(rank, world, 0.1), _joined(rank, world, None)]


@pytest.mark.ddp
def test_two_synchronised_ranks_equal_one_on_the_joined_halves() -> None:
    first, second = run_ranks(_both, 2)
    for a, b, alone in zip(first, second, _both(0, 1)):
        for name, expected in alone.items():
            if name.startswith("stat_"):
                assert torch.equal(a[name], b[name])
                joined = a[name]
            elif name in ("dweight", "dbias"):
                joined = a[name] + b[name]
            else:
                joined = torch.cat([a[name], b[name]])
            torch.testing.assert_close(joined, expected, rtol=1e-12, atol=1e-12)
