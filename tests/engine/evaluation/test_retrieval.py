"""Retrieval scores against hand-made cases, a slow reference loop, the golden arrays and two ranks."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from crossreid.engine.distributed import ALONE, Ranks
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.distances import blocks
from crossreid.engine.evaluation.features import TILES, FeatureMatrix, prepare
from crossreid.engine.evaluation.metrics import Roc, _count_on_device, count_above
from crossreid.engine.evaluation.neighbors import expand
from crossreid.engine.evaluation.retrieval import Features, Retrieval, evaluate
from tests.golden_arrays import relative, settings
from tests.ranks import run_ranks


def make(vectors: object, pids: list[int], cams: list[int], paths: list[str] | None = None) -> Features:
    return Features(
        torch.as_tensor(vectors, dtype=torch.float32), torch.tensor(pids), torch.tensor(cams), paths
    )


def clustered(
    count: int, dim: int, *, people: int, cameras: int, seed: int, junk: bool = False, step: float = 0.0
) -> Features:
    """Noisy copies of one centre a person; ``step`` rounds the vectors to a grid, which makes ties."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(people, dim, generator=torch.Generator().manual_seed(99))
    pids = torch.randint(people, (count,), generator=generator)
    vectors = centres[pids] + 1.5 * torch.randn(count, dim, generator=generator)
    if step:
        vectors = (vectors / step).round() * step
    if junk:
        pids[torch.rand(count, generator=generator) < 0.2] = -1
    return Features(vectors, pids, torch.randint(cameras, (count,), generator=generator))


def slow(
    query: Features, gallery: Features, ap: str, camera: int | None = None
) -> list[tuple[float, float, int] | None]:
    """Per query: average precision, inverse negative penalty, images above the first match. By full sort, in loops."""
    q, g = F.normalize(query.vectors.double()), F.normalize(gallery.vectors.double())
    result: list[tuple[float, float, int] | None] = []
    for i in range(len(q)):
        ranking = sorted(range(len(g)), key=lambda j: (-round(float(q[i] @ g[j]), 9), j))
        hits, position, places = 0, 0, []
        for j in ranking:
            pid, cam = int(gallery.pids[j]), int(gallery.cams[j])
            if pid == -1 or (pid == query.pids[i] and cam == query.cams[i]) or camera not in (None, cam):
                continue
            if pid == query.pids[i]:
                places.append(position)
            position += 1
        if not places:
            result.append(None)
            continue
        total = 0.0
        for hits, h in enumerate(places, start=1):
            after, before = hits / (h + 1), (hits - 1) / h if h else 1.0
            total += after if ap == "rectangular" else (after + before) / 2
        result.append((total / len(places), len(places) / (places[-1] + 1), places[0]))
    return result


def same(a: Retrieval, b: Retrieval) -> None:
    """Equal to the last bit."""
    assert (a.mAP, a.mINP, a.skipped, a.ranks, a.ap) == (b.mAP, b.mINP, b.skipped, b.ranks, b.ap)
    assert torch.equal(a.cmc, b.cmc)
    assert torch.equal(a.per_query_ap.nan_to_num(-1), b.per_query_ap.nan_to_num(-1))
    assert a.roc == b.roc
    if a.camera_pairs and b.camera_pairs:
        assert torch.equal(a.camera_pairs.mAP.nan_to_num(-1), b.camera_pairs.mAP.nan_to_num(-1))


# ---------------------------------------------------------------- definitions


def test_one_query_by_hand() -> None:
    """Order: wrong, right, same camera, distractor 0, junk, right; so matches stand 1 and 3 of four that count."""
    angles = torch.tensor([1.0, 2, 3, 4, 5, 6]) * 0.1
    gallery = make(torch.stack([angles.cos(), angles.sin()], 1), [8, 7, 7, 0, -1, 7], [2, 2, 1, 2, 2, 3])
    query = make([[1.0, 0.0]], [7], [1])
    result = evaluate(query, gallery, ranks=(1, 2, 3, 50))
    assert result.mAP == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert result.mINP == pytest.approx(2 / 4)
    assert result.cmc.tolist() == [0, 1, 1, 1]
    assert result.skipped == 0
    trapezoidal = evaluate(query, gallery, ap="trapezoidal")
    assert trapezoidal.mAP == pytest.approx(((0 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2)
    assert (result.ap, trapezoidal.ap) == ("rectangular", "trapezoidal")


@pytest.mark.parametrize("ap", ["rectangular", "trapezoidal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_the_slow_loop(ap: str, dtype: torch.dtype) -> None:
    query = clustered(23, 6, people=9, cameras=3, seed=1)
    gallery = clustered(80, 6, people=9, cameras=3, seed=2, junk=True)
    query.vectors, gallery.vectors = query.vectors.to(dtype), gallery.vectors.to(dtype)
    result = evaluate(query, gallery, ap=ap, ranks=(1, 3, 5), camera_pairs=True)
    expected = slow(query, gallery, ap)
    for value, reference in zip(result.per_query_ap.tolist(), expected):
        assert math.isnan(value) if reference is None else value == pytest.approx(reference[0], abs=1e-12)
    scored = [e for e in expected if e is not None]
    assert result.skipped == len(expected) - len(scored)
    assert result.mAP == pytest.approx(np.mean([e[0] for e in scored]))
    assert result.mINP == pytest.approx(np.mean([e[1] for e in scored]))
    assert result.cmc.tolist() == pytest.approx([np.mean([e[2] < r for e in scored]) for r in (1, 3, 5)])
    pairs = result.camera_pairs
    assert pairs is not None
    for column, camera in enumerate(pairs.gallery_cams.tolist()):
        rows = slow(query, gallery, ap, camera)
        for line, own in enumerate(pairs.query_cams.tolist()):
            here = [e for e, c in zip(rows, query.cams.tolist()) if c == own and e is not None]
            assert pairs.queries[line, column] == len(here)
            if here:
                assert float(pairs.mAP[line, column]) == pytest.approx(np.mean([e[0] for e in here]))
                assert float(pairs.rank1[line, column]) == pytest.approx(np.mean([e[2] < 1 for e in here]))
            else:
                assert math.isnan(pairs.mAP[line, column])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_golden_arrays(metric: str, dtype: torch.dtype) -> None:
    s = settings("eval_cmc_map")[0]
    query = Features(s["query_features"].to(dtype), s["query_ids"], s["query_cams"])
    gallery = Features(s["gallery_features"].to(dtype), s["gallery_ids"], s["gallery_cams"])
    for origin, ap in (("a_clean", "rectangular"), ("b_clean", "rectangular"), ("d_clean", "trapezoidal")):
        result = evaluate(query, gallery, ap=ap, ranks=range(1, 51), metric=metric)
        expected = s[f"{origin}_ap"]
        assert torch.equal(result.per_query_ap.isnan(), expected.isnan())
        assert result.skipped == int(expected.isnan().sum()) == 2
        assert relative(result.per_query_ap.nan_to_num(), expected.nan_to_num()) < 1e-7
        assert relative(result.cmc, s[f"{origin}_cmc"]) < 1e-7
        assert result.mAP == pytest.approx(float(s[f"{origin}_mAP"]), rel=1e-7)
        ranks = evaluate(query, gallery, ap=ap, ranks=(1, 5, 10, 20), metric=metric).cmc
        assert relative(ranks, s[f"{origin}_rank1_5_10_20"]) < 1e-7
    assert evaluate(query, gallery, metric=metric).mINP == pytest.approx(float(s["b_clean_mINP"]), rel=1e-7)
    result = evaluate(query, gallery, ap="trapezoidal", ranks=range(1, 51), metric=metric)
    assert result.mAP == pytest.approx(float(s["c_raw_mAP_without_crashing_queries"]), rel=1e-7)
    assert relative(result.cmc, s["c_raw_cmc_without_crashing_queries"]) < 1e-7
    # junk under another number stays in the ranking as a wrong answer: the "raw" arrays
    gallery.pids = torch.where(gallery.pids == -1, -7, gallery.pids)
    result = evaluate(query, gallery, ranks=range(1, 51), metric=metric)
    assert relative(result.per_query_ap.nan_to_num(), s["b_raw_ap"].nan_to_num()) < 1e-7
    assert relative(result.cmc, s["b_raw_cmc"]) < 1e-7
    assert result.mINP == pytest.approx(float(s["b_raw_mINP"]), rel=1e-7)


# ---------------------------------------------------------------- ties, chunks, ranks


def test_ties_follow_gallery_order() -> None:
    """All similarities are equal, so the ranking is the gallery's order."""
    gallery = make(torch.ones(6, 3), [8, 7, 8, 7, 7, 8], [2, 2, 2, 2, 1, 2])
    result = evaluate(make([[1.0, 2.0, 3.0]], [7], [1]), gallery, ranks=(1, 2))
    assert result.mAP == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert result.cmc.tolist() == [0, 1]
    backwards = make(torch.ones(6, 3), [7, 8, 7, 7, 8, 8], [2, 2, 2, 1, 2, 2])
    assert evaluate(make([[1.0, 2.0, 3.0]], [7], [1]), backwards).mAP == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("queries", [1, 3, 40])
def test_equal_vectors_tie_wherever_they_stand(monkeypatch: pytest.MonkeyPatch, queries: int) -> None:
    """Products round equal columns differently at tile edges; the copies must still rank in gallery order."""
    base = clustered(700, 37, people=50, cameras=4, seed=5)
    pattern = torch.randperm(700, generator=torch.Generator().manual_seed(0)) % 60
    gallery = Features(base.vectors[pattern], base.pids, base.cams)  # 60 different vectors, at random places
    query = clustered(queries, 37, people=50, cameras=4, seed=6)
    expected = slow(query, gallery, "rectangular")
    for tile in ((256, 1024), (2, 7), (16, 33)):
        monkeypatch.setitem(TILES, "cpu", tile)
        for metric in ("cosine", "euclidean"):
            found = evaluate(
                query, Features(F.normalize(gallery.vectors), gallery.pids, gallery.cams), metric=metric
            )
            reference = [math.nan if e is None else e[0] for e in expected]
            assert found.per_query_ap.tolist() == pytest.approx(reference, nan_ok=True, abs=1e-12)


def test_result_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TILES, "cpu", (8, 16))
    query = clustered(50, 12, people=12, cameras=3, seed=3, step=1.0)
    gallery = clustered(333, 12, people=12, cameras=3, seed=4, step=1.0, junk=True)
    options = {"camera_pairs": True, "roc": (0.01, 0.1), "ranks": (1, 5, 400)}
    results = [evaluate(query, gallery, chunk_mb=mb, **options) for mb in (0.001, 0.025, 0.06, 256)]
    for result in results[1:]:
        same(results[0], result)


def _evaluate_share(rank: int, world: int) -> Retrieval:
    TILES["cpu"] = (8, 1024)
    query = clustered(50, 12, people=12, cameras=3, seed=3)
    gallery = clustered(333, 12, people=12, cameras=3, seed=4, junk=True)
    return evaluate(query, gallery, camera_pairs=True, roc=(0.01, 0.1), distributed=world > 1)


@pytest.mark.ddp
def test_two_ranks_give_the_result_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TILES, "cpu", (8, 1024))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = _evaluate_share(0, 1)
    torch.set_num_threads(threads)
    for result in run_ranks(_evaluate_share, 2):
        same(alone, result)


def test_share_covers_each_query_once() -> None:
    for queries, world in ((3368, 8), (5, 4), (256, 2), (1, 3), (11659, 5)):
        bounds = [Ranks(r, world, torch.device("cpu")).bounds(queries, 256) for r in range(world)]
        assert [i for a, b in bounds for i in range(a, b)] == list(range(queries))


def test_counting_ways_agree() -> None:
    """Comparisons, the sort for queries with many matches, and the way of the GPU."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 400, (5, 20_000), generator=generator).float()  # more than one piece of a row
    scores[:, ::7] = -torch.inf
    columns = [
        np.sort(np.random.default_rng(i).choice(20_000, n, replace=False))
        for i, n in enumerate((1, 3, 0, 900, 40))
    ]
    columns = [c[scores[i, torch.from_numpy(c)].isfinite().numpy()] for i, c in enumerate(columns)]
    assert len(columns[3]) > 128
    rows = np.repeat(np.arange(5), [len(c) for c in columns])
    flat = np.concatenate(columns)
    expected = [
        int((scores[r] > scores[r, c]).sum() + (scores[r, :c] == scores[r, c]).sum())
        for r, c in zip(rows, flat)
    ]
    assert count_above(scores, rows, flat).tolist() == expected
    assert _count_on_device(scores, rows, flat).tolist() == expected


# ---------------------------------------------------------------- corners


def test_one_camera_gallery_skips_all_its_queries() -> None:
    features = clustered(9, 4, people=3, cameras=1, seed=0)
    result = evaluate(features, features)
    assert result.skipped == 9
    assert math.isnan(result.mAP)
    assert result.cmc.isnan().all()


def test_all_junk_gallery_skips_all_queries() -> None:
    gallery = make(torch.eye(3), [-1, -1, -1], [1, 2, 3])
    result = evaluate(make(torch.eye(3), [-1, 1, 2], [1, 1, 1]), gallery, camera_pairs=True, roc=True, aqe=2)
    assert result.skipped == 3
    assert math.isnan(result.mAP)


def test_one_query_and_one_gallery_image() -> None:
    result = evaluate(make([[1.0, 0]], [3], [0]), make([[-1.0, 0]], [3], [1]), ranks=(1, 5, 10))
    assert (result.mAP, result.mINP, result.cmc.tolist()) == (1, 1, [1, 1, 1])


def test_zero_vectors_have_cosine_zero() -> None:
    """The zero vector ranks between a similar and an opposite one."""
    gallery = make([[-1.0, 0], [0, 0], [1, 0]], [8, 7, 8], [2, 2, 2])
    result = evaluate(make([[2.0, 0], [0, 0]], [7, 7], [1, 1]), gallery)
    assert result.per_query_ap.tolist() == [1 / 2, 1 / 2]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_features_are_named(bad: float) -> None:
    query, gallery = (
        clustered(4, 3, people=2, cameras=2, seed=0),
        clustered(5, 3, people=2, cameras=2, seed=1),
    )
    gallery.vectors[3, 1] = bad
    with pytest.raises(InputError, match="gallery image 3 are NaN"):
        evaluate(query, gallery)
    gallery.paths = [f"{i}.jpg" for i in range(5)]
    with pytest.raises(InputError, match=r"gallery image 3 \(3.jpg\) are NaN"):
        evaluate(query, gallery)
    gallery.pids[0] = gallery.pids[3] = -1  # junk is not looked at, and does not shift the names
    evaluate(query, gallery)
    gallery.vectors[4, 0] = bad
    with pytest.raises(InputError, match=r"gallery image 4 \(4.jpg\)"):
        evaluate(query, gallery)


def test_bad_input_is_one_named_error() -> None:
    query, gallery = (
        clustered(4, 3, people=2, cameras=2, seed=0),
        clustered(5, 4, people=2, cameras=2, seed=1),
    )
    with pytest.raises(InputError, match="query features have 3 dimensions, gallery features 4"):
        evaluate(query, gallery)
    with pytest.raises(InputError, match="query features are"):
        evaluate(Features(torch.empty(0, 3), query.pids[:0], query.cams[:0]), query)
    with pytest.raises(InputError, match="4 features, but 3 identities"):
        evaluate(query, Features(query.vectors, query.pids[:3], query.cams))
    for options, match in (
        ({"ap": "mean"}, "rectangular or trapezoidal"),
        ({"metric": "l1"}, "cosine or euclidean"),
        ({"ranks": (0, 1)}, "from 1 on"),
        ({"roc": (2.0,)}, "between 0 and 1"),
    ):
        with pytest.raises(InputError, match=match):
            evaluate(query, query, **options)


def test_half_precision_is_scored_in_float32() -> None:
    query = clustered(20, 16, people=5, cameras=3, seed=1)
    gallery = clustered(90, 16, people=5, cameras=3, seed=2)
    halves = [Features(f.vectors.bfloat16(), f.pids, f.cams) for f in (query, gallery)]
    raised = [Features(f.vectors.float(), f.pids, f.cams) for f in halves]
    saved = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            found = evaluate(*halves, roc=True)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(saved)
    same(found, evaluate(*raised, roc=True))


# ---------------------------------------------------------------- options


def test_roc_points_are_exact() -> None:
    query = clustered(30, 8, people=6, cameras=3, seed=1)
    gallery = clustered(200, 8, people=6, cameras=3, seed=2, junk=True)
    result = evaluate(query, gallery, roc=(1e-3, 1e-2, 0.2))
    similarity_ = F.normalize(query.vectors) @ F.normalize(gallery.vectors).T
    right = query.pids[:, None] == gallery.pids
    valid = ~(right & (query.cams[:, None] == gallery.cams)) & (gallery.pids != -1)
    positive, negative = similarity_[right & valid], similarity_[~right & valid].sort(descending=True).values
    assert result.roc is not None
    for rate, found in result.roc.items():
        threshold = negative[int(rate * len(negative))]
        assert result.roc_scores is not None
        assert result.roc_scores[rate] == pytest.approx(float(threshold), abs=1e-6)
        assert float((negative > threshold).float().mean()) <= rate
        assert found == pytest.approx(float((positive > threshold).double().mean()), abs=1e-12)


def test_roc_forgets_nothing_it_needs() -> None:
    """Good queries first, poor ones after: the final threshold lies below the early bound."""
    roc = Roc((0.5,), 4 * 2**21)
    rows, columns = np.array([0, 1]), np.array([0, 0])
    generator = torch.Generator().manual_seed(0)
    blocks = [torch.rand(2, 2**21, generator=generator) + 1 - i for i in range(2)]
    everything = torch.cat([b[:, 1:].flatten() for b in blocks]).sort(descending=True).values
    matches = torch.cat([b[:, 0] for b in blocks])
    for block in blocks:
        roc.add(block, rows, columns)
    expected = float((matches > everything[len(everything) // 2]).double().mean())
    assert roc.result(ALONE) == (expected,)


def test_query_expansion_by_hand() -> None:
    """The mean of the query and its nearest images, as unit vectors with the cosine metric."""
    gallery = make([[9.0, 1.0], [0.9, -0.8], [0.2, 1.0]], [8, 7, 9], [2, 2, 2])
    query = make([[3.0, 0.0]], [7], [1])
    ready = prepare(query, gallery, metric="cosine")
    for count in (1, 2, 5):
        nearest = F.normalize(gallery.vectors[:count])
        expected = (F.normalize(query.vectors) + nearest.sum(0)) / (1 + len(nearest))
        found = expand(ready.query, ready.gallery, count, metric="cosine")
        assert torch.allclose(found.raw(0, 1), expected, atol=1e-6)
    ready = prepare(query, gallery, metric="euclidean")
    plain = expand(ready.query, ready.gallery, 1, metric="euclidean")
    assert torch.allclose(plain.raw(0, 1), (query.vectors + gallery.vectors[1]) / 2, atol=1e-6)
    assert evaluate(query, gallery, aqe=1).mAP == 0.5  # drawn towards the image of identity 8
    assert evaluate(query, gallery, aqe=1, metric="euclidean").mAP == 1  # drawn towards the match


def test_query_expansion_helps_scattered_queries() -> None:
    query = clustered(60, 16, people=20, cameras=4, seed=1)
    gallery = clustered(400, 16, people=20, cameras=4, seed=2)
    assert evaluate(query, gallery, aqe=3).mAP > evaluate(query, gallery).mAP + 0.02


def test_no_distance_matrix_is_held() -> None:
    """A gallery whose score matrix would need 1.3 GB is scored within a small block."""
    query = clustered(1500, 4, people=700, cameras=3, seed=1)
    gallery = clustered(220_000, 4, people=700, cameras=3, seed=2)
    start = time.monotonic()
    shapes = []
    for _, block in blocks(FeatureMatrix(query.vectors), FeatureMatrix(gallery.vectors), metric="euclidean"):
        shapes.append(tuple(block.shape))
        assert block.untyped_storage().nbytes() <= 512 * 4 * 220_000
    assert sum(rows for rows, _ in shapes) == 1500
    assert time.monotonic() - start < 60
