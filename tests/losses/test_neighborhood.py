"""Neighbourhood losses: golden arrays, a slow loop in float64, empty sets, half precision, chunks."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossreid.losses.camera_blocks import CameraBlocks
from crossreid.losses.neighborhood import (
    camera_agnostic,
    camera_agnostic_terms,
    camera_aware,
    camera_aware_terms,
)
from tests.golden_arrays import relative, settings

AWARE, AGNOSTIC = settings("camera_aware_neighborhood"), settings("camera_agnostic_neighborhood")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


def _aware(
    golden: dict[str, Tensor], rows: slice, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    features = golden["feat"][rows].to(dtype).clone().requires_grad_()
    similarity = features @ golden["memory"].to(dtype).T
    args = golden["img_ids"][rows], golden["cam_ids_batch"][rows], golden["cam_ids_all"]
    terms = camera_aware_terms(
        similarity, *args, scale=float(golden["scale"]), eps=float(golden["neighbor_eps"])
    )
    return features, *terms


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("golden", AWARE)
def test_camera_aware_matches_the_original(golden: dict[str, Tensor], dtype: torch.dtype) -> None:
    features, intra, inter, intra_count, inter_count = _aware(golden, slice(None), dtype)
    tolerance = TOLERANCE[dtype]
    assert intra.dtype == dtype
    assert relative(intra, golden["intra_loss"]) < tolerance
    assert relative(inter, golden["inter_loss"]) < tolerance
    for name, loss in (("intra", intra), ("inter", inter), ("combined", intra + 0.5 * inter)):
        (gradient,) = torch.autograd.grad(loss, features, retain_graph=True)
        assert relative(gradient, golden[f"grad_feat_{name}"]) < tolerance
    assert torch.equal(intra_count, golden["neighbors_intra"].sum(dim=1))
    assert torch.equal(inter_count, golden["neighbors_inter"].sum(dim=1))


@pytest.mark.parametrize("golden", AWARE)
def test_camera_aware_rows_match_the_original(golden: dict[str, Tensor]) -> None:
    for i in range(len(golden["feat"])):
        features, intra, inter, *_ = _aware(golden, slice(i, i + 1), torch.float64)
        for name, loss in (("intra", intra), ("inter", inter)):
            (gradient,) = torch.autograd.grad(loss, features, retain_graph=True)
            assert relative(loss, golden[f"{name}_loss_row"][i]) < 1e-9
            assert relative(gradient[0], golden[f"grad_feat_{name}_row"][i]) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("golden", AGNOSTIC)
def test_camera_agnostic_matches_the_original(golden: dict[str, Tensor], dtype: torch.dtype) -> None:
    features = golden["feat"].to(dtype).clone().requires_grad_()
    similarity, index = features @ golden["memory"].to(dtype).T, golden["img_ids"]
    numbers = {"scale": float(golden["scale"]), "eps": float(golden["neighbor_eps"])}
    loss = camera_agnostic(similarity, index, **numbers)
    (gradient,) = torch.autograd.grad(loss, features, retain_graph=True)
    assert relative(loss, golden["loss"]) < TOLERANCE[dtype]
    assert relative(gradient, golden["grad_feat"]) < TOLERANCE[dtype]
    terms = camera_agnostic_terms(similarity, index, **numbers)
    assert torch.equal(terms.intra_neighbors, golden["neighbors"].sum(dim=1))
    for i in range(len(index)):
        row = camera_agnostic(similarity[i : i + 1], index[i : i + 1], **numbers)
        assert relative(row, golden["loss_row"][i]) < TOLERANCE[dtype]


def slow(
    s: Tensor, index: Tensor, cams: Tensor, memory_cams: Tensor, scale: float, eps: float
) -> tuple[Tensor, Tensor]:
    """The definition, one image and one column at a time."""
    intra, inter = [], []
    for i, own in enumerate(index.tolist()):
        same = [j for j in range(s.shape[1]) if memory_cams[j] == cams[i]]
        other = [j for j in range(s.shape[1]) if memory_cams[j] != cams[i]]
        for losses, support in ((intra, same), (inter, other)):
            v = [s[i, j].item() if j in support and j != own else -1.0 for j in range(s.shape[1])]
            near = [j for j in range(s.shape[1]) if v[j] > eps * max(v)]
            log_p = {j: scale * s[i, j] - torch.logsumexp(scale * s[i, support], 0) for j in support}
            phi = {j: -x if x >= math.log(1e-5) else s.new_tensor(-math.log(1e-5)) for j, x in log_p.items()}
            loss = sum((phi[j] for j in near), s.new_zeros(())) / max(1, len(near))
            losses.append(loss + phi[own] if support is same else loss)
    return torch.stack(intra).mean(), torch.stack(inter).mean()


def test_camera_agnostic_matches_its_formula_without_a_floor() -> None:
    """Scale 40: most of the log-probabilities lie far below log 1e-5."""
    similarity, index, *_ = _case(1)
    similarity.requires_grad_()
    expected = []
    for i, own in enumerate(index.tolist()):
        log_p = torch.log_softmax(40 * similarity[i], 0)
        others = [j for j in range(23) if j != own]
        largest = max(similarity[i, j].item() for j in others)
        near = [j for j in others if similarity[i, j].item() > 0.3 * largest]
        expected.append(-log_p[near].mean() - log_p[own])
    loss, slow_loss = camera_agnostic(similarity, index, scale=40, eps=0.3), torch.stack(expected).mean()
    assert loss.item() == pytest.approx(slow_loss.item(), rel=1e-12)
    gradients = [torch.autograd.grad(x, similarity)[0] for x in (loss, slow_loss)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def _case(seed: int, rows: int = 23, shift: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.rand(7, rows, generator=generator, dtype=torch.float64) * 1.6 - 0.8 + shift
    memory_cams = torch.randint(3, (rows,), generator=generator)
    index = torch.randint(rows, (7,), generator=generator)
    index[1] = index[0]  # a row twice
    return similarity.clamp(-1, 1), index, memory_cams[index], memory_cams


@pytest.mark.parametrize("scale", [5.0, 40.0])
@pytest.mark.parametrize("eps", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("shift", [0.0, -0.75])
@pytest.mark.parametrize("rows", [23, 120])  # one block of columns a camera, several
def test_camera_aware_matches_the_loop(scale: float, eps: float, shift: float, rows: int) -> None:
    similarity, *rest = _case(int(eps * 10), rows, shift)
    ours, loop = similarity.clone().requires_grad_(), similarity.clone().requires_grad_()
    mine = camera_aware(ours, *rest, scale=scale, eps=eps)
    theirs = slow(loop, *rest, scale, eps)
    for a, b in zip(mine, theirs):
        assert a.item() == pytest.approx(b.item(), rel=1e-12)
    (2 * mine[0] + 3 * mine[1]).backward()
    (2 * theirs[0] + 3 * theirs[1]).backward()
    torch.testing.assert_close(ours.grad, loop.grad, rtol=1e-10, atol=1e-12)


def test_by_hand() -> None:
    """Three columns of camera 0, two of camera 1; scale ln 2 turns similarities into powers of two."""
    similarity = torch.tensor([[0.0, 1.0, 0.5, 1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    index, cams, memory_cams = torch.tensor([0]), torch.tensor([0]), torch.tensor([0, 0, 0, 1, 1])
    intra, inter = camera_aware(similarity, index, cams, memory_cams, scale=math.log(2), eps=0.8)
    total = 1 + 2 + math.sqrt(2)
    assert intra.item() == pytest.approx(-math.log(2 / total) - math.log(1 / total))
    assert inter.item() == pytest.approx(-math.log(2 / 3))
    (gradient,) = torch.autograd.grad(inter, similarity)
    expected = math.log(2) * torch.tensor([[0, 0, 0, 2 / 3 - 1, 1 / 3]], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected)


def test_empty_sets_contribute_nothing() -> None:
    """Only candidate negative, camera with one image, data with one camera: finite, and the own row
    remains."""
    similarity = torch.tensor([[0.9, -0.2, -0.3], [0.1, 0.5, -0.1]], dtype=torch.float64, requires_grad=True)
    index = torch.tensor([0, 1])
    terms = camera_aware_terms(
        similarity, index, torch.tensor([0, 1]), torch.tensor([0, 1, 0]), scale=10, eps=0.8
    )
    assert terms.intra_neighbors.tolist() == [0, 0]
    assert terms.inter_neighbors.tolist() == [0, 1]
    own = math.log(1 + math.exp(-12))  # the other column of camera 0 is -1.2 away
    assert terms.intra.item() == pytest.approx(own / 2)
    one_camera = camera_aware(similarity, index, torch.tensor([4, 4]), torch.full((3,), 4), scale=10, eps=0.8)
    assert one_camera[1].item() == 0
    (gradient,) = torch.autograd.grad(
        terms.intra + terms.inter + 0 * one_camera[1], similarity, retain_graph=True
    )
    assert bool(gradient.isfinite().all())
    assert gradient[0, 1] == 0  # image 0 has no neighbour in the other camera
    (gradient,) = torch.autograd.grad(one_camera[1], similarity)
    assert not gradient.any()
    alone = camera_agnostic(torch.tensor([[0.3]]), torch.tensor([0]), scale=10, eps=0.8)
    assert alone.item() == 0


def test_probabilities_below_the_floor_have_no_gradient() -> None:
    similarity = torch.tensor([[-0.9, 0.9, 0.8]], dtype=torch.float64, requires_grad=True)
    one = torch.tensor([0])
    intra, _ = camera_aware(similarity, one, one, torch.tensor([0, 0, 0]), scale=20, eps=0.8)
    p = torch.softmax(20 * similarity.detach()[0, :], 0)
    expected = -p[1:].log().mean().item() - math.log(1e-5)
    assert intra.item() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(intra, similarity)
    torch.testing.assert_close(gradient[0], 20 * (p - torch.tensor([0, 0.5, 0.5], dtype=torch.float64)))


def test_gradcheck_away_from_the_threshold() -> None:
    similarity, *rest = _case(5)
    similarity.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: camera_aware(s, *rest, scale=3.0, eps=0.5), similarity)
    assert torch.autograd.gradcheck(lambda s: camera_agnostic(s, rest[0], scale=3.0, eps=0.5), similarity)


@pytest.mark.parametrize("chunk", [1, 50, 10_000])
def test_chunks_do_not_change_a_bit(chunk: int) -> None:
    similarity, *rest = _case(2)
    results = []
    for size in (chunk, 70):
        s = similarity.clone().requires_grad_()
        terms = camera_aware_terms(s, *rest, scale=10, eps=0.8, chunk=size)
        (terms.intra + terms.inter).backward()
        results.append((*terms, s.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(dtype: torch.dtype) -> None:
    """Scale 40 and 23 columns overflow exp in float16; the sum over the batch is scaled like a float16
    trainer does."""
    similarity, *rest = _case(3)
    half = similarity.to(dtype)
    a, b = half.clone().requires_grad_(), half.float().requires_grad_()
    losses = [camera_aware(s, *rest, scale=40, eps=0.8) for s in (a, b)]
    assert losses[0][0].dtype == torch.float32
    assert torch.equal(torch.stack(losses[0]), torch.stack(losses[1]))
    for intra, inter in losses:
        ((intra + inter) * 1024).backward()
    assert a.grad.dtype == dtype
    assert torch.equal(a.grad, b.grad.to(dtype))


def test_large_scale_stays_finite_in_float32() -> None:
    """exp(scale * s) overflows float32 from 88 on."""
    similarity, *rest = _case(4)
    for scale in (200.0, 2000.0):
        s = similarity.float().requires_grad_()
        intra, inter = camera_aware(s, *rest, scale=scale, eps=0.8)
        (intra + inter + camera_agnostic(s, rest[0], scale=scale, eps=0.8)).backward()
        assert bool(s.grad.isfinite().all())
        expected = camera_aware(similarity, *rest, scale=scale, eps=0.8)
        assert relative(torch.stack([intra, inter]), torch.stack(expected)) < 1e-5


def test_value_without_gradient_and_batch_as_mean_of_its_parts() -> None:
    similarity, index, cams, memory_cams = _case(6)
    similarity, index, cams = similarity[:6], index[:6], cams[:6]
    whole = camera_aware(similarity, index, cams, memory_cams, scale=10, eps=0.7)
    parts = [
        camera_aware(similarity[p], index[p], cams[p], memory_cams, scale=10, eps=0.7)
        for p in (slice(0, 3), slice(3, 6))
    ]
    assert not whole[0].requires_grad
    for k in range(2):
        assert whole[k].item() == pytest.approx((parts[0][k] + parts[1][k]).item() / 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.float16, 2e-3)]
)
@pytest.mark.parametrize("chunk", [None, 300])
def test_a_gpu_gives_the_cpu_s_numbers(dtype: torch.dtype, tolerance: float, chunk: int | None) -> None:
    similarity, *rest = _case(7, 120)
    similarity = similarity.to(dtype)
    results = []
    for device, kind in (("cpu", torch.float64), ("cuda", dtype)):
        s = similarity.to(device, kind).requires_grad_()
        terms = camera_aware_terms(s, *(x.to(device) for x in rest), scale=10, eps=0.8, chunk=chunk)
        (terms.intra + 2 * terms.inter).backward()
        results.append([x.detach().cpu().double() for x in (*terms, s.grad)])
    for ours, expected in zip(results[1], results[0]):
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("sizes", [[1], [40, 1, 300, 17], [2] * 50, [5000, 3], [1] * 99])
def test_blocks_hold_every_row_once_and_one_camera_each(sizes: list[int]) -> None:
    cams = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)) * 7 - 3  # any numbers
    cams = cams[torch.randperm(len(cams), generator=torch.Generator().manual_seed(0))]
    blocks = CameraBlocks.of(cams)
    width = len(blocks.columns) // len(blocks.cams)
    filled = torch.ones_like(blocks.columns, dtype=torch.bool).index_fill_(0, blocks.gaps, False)
    assert torch.equal(blocks.columns[blocks.place], torch.arange(len(cams)))
    assert filled.sum() == len(cams)
    assert torch.equal(blocks.cams.repeat_interleave(width)[filled], cams[blocks.columns[filled]])
    assert width <= 128
    assert len(blocks.columns) <= 1.5 * len(cams)


def test_blocks_of_one_camera_need_no_cameras() -> None:
    made, known = CameraBlocks.one_camera(300, torch.device("cpu")), CameraBlocks.of(torch.zeros(300).long())
    similarity, index = torch.rand(3, 300, dtype=torch.float64), torch.tensor([0, 299, 150])
    losses = [camera_aware(similarity, index, torch.zeros(3), b, scale=9, eps=0.5)[0] for b in (made, known)]
    assert made.columns[made.place].tolist() == list(range(300))
    torch.testing.assert_close(*losses)


def test_negative_threshold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"eps is -0\.1"):
        camera_agnostic(F.normalize(torch.rand(2, 3)), torch.tensor([0, 1]), scale=10, eps=-0.1)
