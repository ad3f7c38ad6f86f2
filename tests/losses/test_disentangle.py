"""Disentangling losses: golden arrays, loops, equal sets, empty masks, batches of one, half precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossreid.losses.disentangle import contrastive, masked_l2, mmd, orthogonality, reconstruction
from tests.golden_arrays import relative, settings

TYPES = [(torch.float64, 1e-9), (torch.float32, 1e-5)]


def _check(
    loss: Callable[..., Tensor],
    inputs: list[Tensor],
    value: Tensor,
    gradients: list[Tensor],
    dtype: torch.dtype,
) -> None:
    tolerance = dict(TYPES)[dtype]
    leaves = [x.to(dtype).clone().requires_grad_() for x in inputs]
    result = loss(*leaves)
    assert result.dtype == dtype
    assert relative(result, value) < tolerance
    for got, expected in zip(torch.autograd.grad(result, leaves[: len(gradients)]), gradients):
        assert relative(got, expected) < tolerance


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("golden", settings("arn_mmd"))
def test_mmd_matches_the_original(golden: dict[str, Tensor], dtype: torch.dtype) -> None:
    sigmas = [float(s) / float(golden["base"]) for s in golden["sigma_list"]]
    inputs, gradients = [golden["target"], golden["source"]], [golden["grad_target"], golden["grad_source"]]
    _check(lambda x, y: mmd(x, y, sigmas=sigmas), inputs, golden["loss"], gradients, dtype)
    squared = mmd(*inputs, sigmas=sigmas).square()
    assert relative(squared, golden["mmd2_biased"]) < 1e-9


def test_mmd_of_equal_and_of_unequal_sets() -> None:
    x, y = _random(5, 3).requires_grad_(), _random(4, 3, seed=1)
    zero = mmd(x, x.detach().clone(), sigmas=(1, 2, 10))
    zero.backward()
    assert zero.item() == 0
    assert not x.grad.any()

    def kernel(a: Tensor, b: Tensor) -> float:
        return sum(
            torch.exp(-(p - q).square().sum() / (2 * s * s)).item() for p in a for q in b for s in (1, 2, 10)
        )

    expected = kernel(x.detach(), x.detach()) / 25 + kernel(y, y) / 16 - 2 * kernel(x.detach(), y) / 20
    assert mmd(x, y, sigmas=(1, 2, 10)).item() == pytest.approx(expected**0.5, rel=1e-12)
    with pytest.raises(ValueError, match="sigmas"):
        mmd(x, y, sigmas=())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("golden", settings("arn_contrastive"))
def test_contrastive_matches_the_original(golden: dict[str, Tensor], dtype: torch.dtype) -> None:
    labels, margin = golden["labels"], float(golden["margin"])
    loss = lambda x: contrastive(x, labels, margin=margin)  # noqa: E731
    _check(loss, [golden["x"]], golden["loss"], [golden["grad_x"]], dtype)


def test_contrastive_by_hand_and_for_one_image() -> None:
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    # squared distances over D: 2, 0.5, 2.5; pair (0, 1) is positive, the margin 2 reaches (0, 2) alone
    loss = contrastive(x, torch.tensor([4, 4, 5]), margin=2.0)
    assert loss.item() == pytest.approx((2 + 1.5 + 0) / 3)
    one = contrastive(x[:1], torch.tensor([4]), margin=2.0)
    one.backward()
    assert one.item() == 0
    assert not x.grad.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("golden", settings("arn_orthogonality"))
def test_original_orthogonality_matches(golden: dict[str, Tensor], dtype: torch.dtype) -> None:
    inputs, gradients = (
        [golden["feature1"], golden["feature2"]],
        [golden["grad_feature1"], golden["grad_feature2"]],
    )
    _check(lambda a, b: orthogonality(a, b, kind="original"), inputs, golden["loss"], gradients, dtype)


def test_cosine_orthogonality() -> None:
    a, b = _random(6, 5), _random(6, 5, seed=1)
    expected = F.cosine_similarity(a, b).square().mean()
    torch.testing.assert_close(orthogonality(a, b), expected)
    torch.testing.assert_close(orthogonality(3 * a, -b), expected)
    zero = torch.zeros(2, 5, requires_grad=True)
    orthogonality(zero, b[:2].float()).backward()
    assert not zero.grad.any()
    with pytest.raises(ValueError, match="'plain'"):
        orthogonality(a, b, kind="plain")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("golden", settings("arn_reconstruction"))
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_reconstruction_matches_the_original(
    golden: dict[str, Tensor], norm: str, dtype: torch.dtype
) -> None:
    value, gradient = golden[f"loss_{norm.upper()}"], golden[f"grad_reconstruction_{norm.upper()}"]
    inputs = [golden["reconstruction"], golden["image"]]
    _check(lambda x, y: reconstruction(x, y, norm=norm), inputs, value, [gradient], dtype)  # type: ignore[arg-type]


def test_perfect_reconstruction_has_no_gradient() -> None:
    for norm in ("l1", "l2"):
        x = _random(2, 3, 4, 2).requires_grad_()
        reconstruction(x, x.detach(), norm=norm).backward()  # type: ignore[arg-type]
        assert not x.grad.any()
    with pytest.raises(ValueError, match="'l3'"):
        reconstruction(x, x, norm="l3")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("golden", settings("disentangle_masked_l2"))
def test_masked_l2_matches_the_original(golden: dict[str, Tensor], dtype: torch.dtype) -> None:
    inputs = [golden["prediction"], golden["label"], golden["mask"]]
    _check(masked_l2, inputs, golden["masked_l2"], [golden["grad_prediction"]], dtype)
    mean, std = (
        torch.tensor(x, dtype=torch.float64).view(3, 1, 1)
        for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    image, saliency = (golden[f"{name}_normalized"] * std + mean for name in ("image", "saliency"))
    value, gradient = golden["masked_l2_pipeline"], golden["grad_decoder_output"]

    def pipeline(output: Tensor) -> Tensor:
        s = saliency.to(output.dtype)
        return masked_l2(s * output, s * image.to(output.dtype), s)

    _check(pipeline, [golden["decoder_output"]], value, [gradient], dtype)
    one_channel = masked_l2(saliency * golden["decoder_output"], saliency * image, saliency[:, :1])
    assert relative(one_channel, value) < 1e-9


def test_empty_mask_contributes_nothing() -> None:
    x = _random(1, 3, 2, 2).requires_grad_()
    loss = masked_l2(x, torch.zeros_like(x), torch.zeros_like(x))
    loss.backward()
    assert loss.item() == 0
    assert not x.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(dtype: torch.dtype) -> None:
    x, y, pids = _random(4, 300).to(dtype), _random(4, 300, seed=1).to(dtype), torch.tensor([0, 0, 1, 1])
    images, target = (t.view(4, 3, 10, 10) * 100 for t in (x, y))  # 1200 squares of 10^4 overflow float16
    losses: list[tuple[Callable[..., Tensor], list[Tensor]]] = [
        (lambda a, b: mmd(a, b, sigmas=(1, 2, 10)), [x, y]),
        (lambda a: contrastive(a, pids, margin=2.0), [x]),
        (orthogonality, [x, y]),
        (lambda a, b: orthogonality(a, b, kind="original"), [x, y]),
        (reconstruction, [images, target]),
        (lambda a, b: reconstruction(a, b, norm="l2"), [images, target]),
        (masked_l2, [images, target, (images > 0).to(dtype)]),
    ]
    for loss, inputs in losses:
        value = loss(*inputs)
        assert torch.equal(value, loss(*(t.float() for t in inputs)))
        assert bool(value.isfinite())
