"""ECN's invariance loss: golden arrays, a loop, the borders of k."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossreid.losses.invariance import exemplar_invariance
from tests.golden_arrays import relative, settings


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("golden", settings("ecn_invariance"))
def test_matches_the_original(golden: dict[str, Tensor], dtype: torch.dtype, tolerance: float) -> None:
    x = golden["x"].to(dtype).clone().requires_grad_()
    k = int(golden["knn"]) if int(golden["epoch"]) > 4 else 0
    similarity = x @ golden["memory"].to(dtype).T
    loss = exemplar_invariance(similarity, golden["targets"], temperature=float(golden["beta"]), k=k)
    loss.backward()
    assert loss.dtype == dtype
    assert relative(loss, golden["loss"]) < tolerance
    assert relative(x.grad, golden["grad_x"]) < tolerance


def _case() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(5, 11, generator=generator, dtype=torch.float64) * 2 - 1, torch.tensor([3, 3, 0, 10, 7])


@pytest.mark.parametrize("k", [0, 1, 4, 11])
def test_matches_the_loop(k: int) -> None:
    similarity, index = _case()
    similarity[0, 3] = 1.0  # the own row is the nearest one
    expected = []
    for s, own in zip(similarity / 0.1, index.tolist()):
        nearest = sorted(range(11), key=lambda j: -s[j].item())[:k]
        weights = dict.fromkeys(nearest, 1 / max(k, 1)) | {own: 1.0}
        expected.append(-sum(w * F.log_softmax(s, 0)[j].item() for j, w in weights.items()))
    similarity.requires_grad_()
    loss = exemplar_invariance(similarity, index, temperature=0.1, k=k)
    assert loss.item() == pytest.approx(sum(expected) / 5, rel=1e-12)
    assert torch.autograd.gradcheck(lambda s: exemplar_invariance(s, index, temperature=0.1, k=k), similarity)


def test_without_neighbours_it_is_cross_entropy() -> None:
    similarity, index = _case()
    loss = exemplar_invariance(similarity, index, temperature=0.05, k=0)
    torch.testing.assert_close(loss, F.cross_entropy(similarity / 0.05, index))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(dtype: torch.dtype) -> None:
    similarity, index = _case()
    half = similarity.to(dtype)
    loss = exemplar_invariance(half, index, temperature=0.001, k=3)
    assert torch.equal(loss, exemplar_invariance(half.float(), index, temperature=0.001, k=3))


@pytest.mark.parametrize("k", [-1, 12])
def test_k_beyond_the_memory_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=rf"{k} neighbours asked of a memory of 11 rows"):
        exemplar_invariance(*_case(), temperature=0.05, k=k)
