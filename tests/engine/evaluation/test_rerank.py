"""Re-ranking and the Jaccard distance against the golden arrays and a slow textbook version."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from crossreid.engine.errors import InputError
from crossreid.engine.evaluation import jaccard as jaccard_module
from crossreid.engine.evaluation import reciprocal
from crossreid.engine.evaluation.features import TILES, FeatureMatrix
from crossreid.engine.evaluation.neighbors import largest, nearest_points
from crossreid.engine.evaluation.rerank import evaluate_reranked, jaccard, k_reciprocal
from crossreid.engine.evaluation.retrieval import Features, evaluate
from tests.golden_arrays import relative, settings
from tests.ranks import run_ranks


def points_at(distances: torch.Tensor) -> torch.Tensor:
    """Points [n, d] with given squared distances [n, n] (classical scaling)."""
    n = len(distances)
    centre = torch.eye(n, dtype=torch.float64) - 1 / n
    values, vectors = torch.linalg.eigh(-0.5 * centre @ distances.double() @ centre)
    return vectors * values.clamp_min(0).sqrt()


def blobs(count: int, dim: int, *, people: int, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    pids = torch.randint(people, (count,), generator=generator)
    centres = torch.randn(people, dim, generator=torch.Generator().manual_seed(42))
    vectors = centres[pids] + 1.2 * torch.randn(count, dim, generator=generator)
    return Features(vectors, pids, torch.randint(3, (count,), generator=generator))


def textbook(original: np.ndarray, k: int, half: int, k2: int, weight_by: np.ndarray) -> np.ndarray:
    """Jaccard distances [n, n] from ranking distances by sets and loops; a point comes first in its own list."""
    n = len(original)
    order = [sorted(range(n), key=lambda j: (j != i, original[i, j], j)) for i in range(n)]

    def mutual(i: int, length: int) -> set[int]:
        return {j for j in order[i][:length] if i in order[j][:length]}

    weights = np.zeros((n, n))
    for i in range(n):
        first = mutual(i, k)
        members = set(first)
        for j in first:
            candidate = mutual(j, half)
            if len(candidate & first) > 2 / 3 * len(candidate):
                members |= candidate
        chosen = sorted(members)
        weights[i, chosen] = np.exp(-weight_by[i, chosen]) / np.exp(-weight_by[i, chosen]).sum()
    weights = np.stack([weights[order[i][:k2]].mean(0) for i in range(n)])
    overlap = np.array([[np.minimum(a, b).sum() for b in weights] for a in weights])
    return 1 - overlap / (2 - overlap)


def slow_rerank(
    query: torch.Tensor, gallery: torch.Tensor, k1: int, k2: int, weight: float, squared: bool
) -> np.ndarray:
    points = torch.cat([query, gallery]).double()
    plain = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    entering = plain**2 if squared else plain
    original = entering**2 / (entering**2).max(1, keepdims=True)
    result = (
        textbook(original, k1 + 1, int(np.around(k1 / 2)) + 1, k2, original) * (1 - weight)
        + weight * original
    )
    return result[: len(query), len(query) :]


def dense(sparse: torch.Tensor) -> torch.Tensor:
    result = torch.ones(sparse.shape, dtype=sparse.dtype)
    result[tuple(sparse.indices())] = sparse.values()
    return result


# ---------------------------------------------------------------- golden arrays


def test_golden_k_reciprocal() -> None:
    s = settings("rerank_k_reciprocal")[0]
    q = len(s["q_q_dist"])
    distances = torch.cat(
        [torch.cat([s["q_q_dist"], s["q_g_dist"]], 1), torch.cat([s["q_g_dist"].T, s["g_g_dist"]], 1)]
    )
    options = {"k1": int(s["k1"]), "k2": int(s["k2"]), "lambda_value": float(s["lambda_value"])}
    points = points_at(distances)  # the original took distances
    result = k_reciprocal(points[:q], points[q:], **options)
    assert result.shape == s["reranked"].shape
    assert relative(result, s["reranked"]) < 5e-6
    half = k_reciprocal(points[:q].float(), points[q:].float(), **options)
    assert half.dtype == torch.float32
    assert relative(half, s["reranked"]) < 5e-6


def test_golden_jaccard() -> None:
    s = settings("jaccard_distance")[0]
    options = {"k1": int(s["k1"]), "k2": int(s["k2"])}
    result = jaccard(s["features"], **options)
    assert result.is_sparse
    assert result.is_coalesced()
    assert relative(dense(result), s["jaccard_openunreid"]) < 5e-6
    assert relative(dense(result), s["jaccard_spcl"]) < 5e-6  # its features have length 1
    assert relative(dense(jaccard(s["features"].double(), **options)), s["jaccard_openunreid"]) < 5e-6


# ---------------------------------------------------------------- the textbook


@pytest.mark.parametrize(
    ("k1", "k2", "weight", "squared"),
    [(20, 6, 0.3, True), (5, 1, 0.0, False), (6, 3, 1.0, True), (7, 9, 0.5, False), (200, 4, 0.3, True)],
)
def test_against_the_textbook(k1: int, k2: int, weight: float, squared: bool) -> None:
    query, gallery = blobs(15, 6, people=5, seed=1).vectors, blobs(40, 6, people=5, seed=2).vectors
    found = k_reciprocal(query.double(), gallery.double(), k1=k1, k2=k2, lambda_value=weight, squared=squared)
    expected = slow_rerank(query, gallery, min(k1, 54), k2, weight, squared) if k1 < 55 else None
    if (
        expected is None
    ):  # lists longer than the set: all points; the half lists have 101 entries, so all as well
        points = torch.cat([query, gallery]).double()
        original = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").numpy() ** 4
        original /= original.max(1, keepdims=True)
        expected = (0.7 * textbook(original, 55, 55, k2, original) + 0.3 * original)[:15, 15:]
    assert relative(found, torch.from_numpy(expected)) < 1e-9
    single = k_reciprocal(query, gallery, k1=k1, k2=k2, lambda_value=weight, squared=squared)
    assert relative(single, torch.from_numpy(expected)) < 1e-5


@pytest.mark.parametrize(("k1", "k2"), [(10, 4), (5, 1), (1, 1), (13, 20)])
def test_jaccard_against_the_textbook(k1: int, k2: int) -> None:
    features = blobs(50, 6, people=5, seed=3).vectors.double() / 2
    squares = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist").square().numpy()
    expected = textbook(squares, k1, min(k1, int(np.around(k1 / 2)) + 1), k2, squares)
    found = dense(jaccard(features, k1=k1, k2=k2))
    assert relative(found, torch.from_numpy(expected)) < 1e-9
    assert found.diagonal().abs().max() < 1e-9


def test_half_lists_round_to_even(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = jaccard_module.reciprocal_sets
    monkeypatch.setattr(
        jaccard_module, "reciprocal_sets", lambda i, half, **o: seen.append(half) or original(i, half, **o)
    )
    features = blobs(60, 4, people=4, seed=0).vectors
    for k1 in (13, 5, 25, 1, 15):
        k_reciprocal(features[:10], features[10:], k1=k1, k2=2, lambda_value=0.3)
    jaccard(features, k1=1, k2=1)
    assert seen == [7, 3, 13, 1, 9, 1]


# ---------------------------------------------------------------- chunks, scoring, ranks


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("count", [1, 5, 90])
def test_nearest_points_with_ties(monkeypatch: pytest.MonkeyPatch, count: int, copies: bool) -> None:
    """Whole numbers, so that distances are exact: by distance, then by position, each point first for itself."""
    monkeypatch.setitem(TILES, "cpu", (4, 16))
    vectors = torch.randint(-2, 3, (90, 6), generator=torch.Generator().manual_seed(0)).float()
    if copies:
        vectors[40:50], vectors[85] = vectors[3], vectors[80]
    else:
        vectors[:, 0] = torch.arange(90) / 16
    distances = torch.cdist(vectors.double(), vectors.double()).square()
    corner = torch.empty(20, 70)
    index, farthest = nearest_points(
        FeatureMatrix(vectors[:20], vectors[20:]), count, chunk_mb=0.002, corner=corner
    )
    for i in range(90):
        order = sorted(range(90), key=lambda j: (j != i, round(float(distances[i, j]), 6), j))
        assert index[i].tolist() == order[:count]
    torch.testing.assert_close(farthest, distances.amax(1))
    torch.testing.assert_close(corner.double(), -distances[:20, 20:])


def test_pieces_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery = blobs(40, 8, people=6, seed=1), blobs(150, 8, people=6, seed=2)
    gallery.vectors[100:120] = gallery.vectors[3]  # copies, so ties
    monkeypatch.setitem(TILES, "cpu", (8, 16))
    whole = k_reciprocal(query.vectors, gallery.vectors, k1=10, k2=4, lambda_value=0.3)
    lists = dense(jaccard(gallery.vectors, k1=10, k2=4))
    scores = evaluate_reranked(query, gallery, k1=10, k2=4, chunk_mb=64, roc=True)
    monkeypatch.setattr(reciprocal, "TABLE", 1000)
    monkeypatch.setattr(reciprocal, "PIECE", 300)
    pieces = k_reciprocal(query.vectors, gallery.vectors, k1=10, k2=4, lambda_value=0.3, chunk_mb=0.01)
    assert torch.equal(whole, pieces)
    assert torch.equal(lists, dense(jaccard(gallery.vectors, k1=10, k2=4, chunk_mb=0.01)))
    again = evaluate_reranked(query, gallery, k1=10, k2=4, chunk_mb=0.01, roc=True)
    assert torch.equal(scores.per_query_ap, again.per_query_ap)
    assert scores.roc == again.roc


def test_reranked_scores_are_those_of_the_distances() -> None:
    """Junk takes no part; the block-wise scores equal the scores of the whole distance matrix."""
    query, gallery = blobs(30, 8, people=6, seed=1), blobs(120, 8, people=6, seed=2)
    query.vectors, gallery.vectors = query.vectors.double(), gallery.vectors.double()
    gallery.pids[::5] = -1
    found = evaluate_reranked(
        query, gallery, k1=10, k2=4, lambda_value=0.2, ap="trapezoidal", camera_pairs=True
    )
    real = gallery.pids != -1
    distances = k_reciprocal(
        F.normalize(query.vectors), F.normalize(gallery.vectors[real]), k1=10, k2=4, lambda_value=0.2
    )
    for i in range(30):
        valid = ~((gallery.pids[real] == query.pids[i]) & (gallery.cams[real] == query.cams[i]))
        order = distances[i][valid].sort(stable=True).indices
        hits = (gallery.pids[real][valid][order] == query.pids[i]).nonzero().flatten().tolist()
        terms = [((k - 1) / h if h else 1) + k / (h + 1) for k, h in enumerate(hits, 1)]
        expected = sum(terms) / 2 / len(terms) if terms else math.nan
        assert float(found.per_query_ap[i]) == pytest.approx(expected, nan_ok=True, abs=1e-12)
    assert found.camera_pairs is not None
    assert found.ap == "trapezoidal"


def test_reranking_raises_the_score_of_clusters() -> None:
    query, gallery = blobs(100, 16, people=20, seed=5), blobs(400, 16, people=20, seed=6)
    assert evaluate_reranked(query, gallery).mAP > evaluate(query, gallery).mAP + 0.03


def _on_ranks(rank: int, world: int) -> tuple[torch.Tensor, float]:
    TILES["cpu"] = (8, 1024)
    query, gallery = blobs(40, 8, people=6, seed=1), blobs(150, 8, people=6, seed=2)
    result = evaluate_reranked(query, gallery, k1=10, k2=4, distributed=world > 1)
    return result.per_query_ap, result.mAP


@pytest.mark.ddp
def test_two_ranks_give_the_result_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TILES, "cpu", (8, 1024))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = _on_ranks(0, 1)
    torch.set_num_threads(threads)
    for ap, mean in run_ranks(_on_ranks, 2):
        assert torch.equal(ap, alone[0])
        assert mean == alone[1]


# ---------------------------------------------------------------- corners


def test_largest_takes_the_leftmost_of_equals() -> None:
    scores = torch.randint(0, 6, (50, 40), generator=torch.Generator().manual_seed(0)).float()
    values, columns = largest(scores, 7)
    expected = scores.sort(dim=1, descending=True, stable=True)
    assert torch.equal(columns, expected.indices[:, :7])
    assert torch.equal(values, expected.values[:, :7])
    assert torch.equal(largest(scores, 40)[1], expected.indices)


def test_identical_features_and_single_images() -> None:
    same = torch.ones(6, 3)
    result = k_reciprocal(same[:2], same[2:], k1=20, k2=6, lambda_value=0.3)
    assert torch.equal(result, torch.zeros(2, 4))
    assert k_reciprocal(torch.eye(2)[:1], torch.eye(2)[1:], k1=20, k2=6, lambda_value=0.3).isfinite().all()
    assert torch.equal(dense(jaccard(torch.ones(1, 2), k1=30, k2=6)), torch.zeros(1, 1))


def test_all_junk_gallery() -> None:
    query, gallery = blobs(3, 4, people=2, seed=0), blobs(5, 4, people=2, seed=1)
    gallery.pids[:] = -1
    result = evaluate_reranked(query, gallery)
    assert result.skipped == 3
    assert math.isnan(result.mAP)


def test_bad_input_is_one_named_error() -> None:
    good, bad = torch.randn(4, 3), torch.randn(4, 3)
    bad[2, 1] = math.nan
    for call, match in (
        (lambda: k_reciprocal(good, bad, k1=2, k2=1, lambda_value=0.3), "gallery image 2"),
        (lambda: k_reciprocal(bad, good, k1=2, k2=1, lambda_value=0.3), "query image 2"),
        (lambda: k_reciprocal(good, torch.randn(4, 5), k1=2, k2=1, lambda_value=0.3), "3 dimensions"),
        (lambda: k_reciprocal(good, good, k1=0, k2=1, lambda_value=0.3), "k1 0"),
        (lambda: k_reciprocal(good, good, k1=2, k2=1, lambda_value=1.3), "lambda"),
        (lambda: jaccard(bad, k1=2, k2=1), "image 2"),
        (lambda: jaccard(good, k1=2, k2=0), "k2 0"),
        (lambda: jaccard(good[:0], k1=2, k2=1), "need floating"),
    ):
        with pytest.raises(InputError, match=match):
            call()
