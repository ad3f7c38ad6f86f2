"""The camera-aware Jaccard distance and its re-ranking against golden arrays and a slow textbook version."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crossreid.engine.errors import InputError
from crossreid.engine.evaluation import reciprocal
from crossreid.engine.evaluation.dbscan import dbscan
from crossreid.engine.evaluation.features import TILES
from crossreid.engine.evaluation.rerank import camera_jaccard, camera_k_reciprocal
from tests.engine.evaluation.test_rerank import blobs, dense
from tests.golden_arrays import relative, settings

FOUR = ("k1_intra", "k1_inter", "k2_intra", "k2_inter")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("setting", settings("ca_jaccard"))
def test_published_distances(setting: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    options = {name: int(setting[name]) for name in FOUR}
    if int(setting["epoch"]) == 0:  # the published program averages over 3 and 3 at first
        options |= {"k2_intra": 3, "k2_inter": 3}
    found = camera_jaccard(setting["features"].to(dtype), setting["cams"], **options)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert relative(dense(found), setting["jaccard_ca_masked"]) < tolerance
    assert dense(found).diagonal().abs().max() < tolerance


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("setting", settings("ca_rerank"))
def test_published_reranking(setting: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    found = camera_k_reciprocal(
        setting["query_features"].to(dtype), setting["gallery_features"].to(dtype), setting["query_cams"],
        setting["gallery_cams"], lambda_value=float(setting["lambda_value"]),
        **{name: int(setting[name]) for name in FOUR},
    )  # fmt: skip
    assert relative(found, setting["reranked_ca"]) < (1e-12 if dtype == torch.float64 else 1e-5)


def textbook(
    features: torch.Tensor, cams: torch.Tensor, k1_intra: int, k1_inter: int, k2_intra: int, k2_inter: int
) -> np.ndarray:
    """The distance by sets and loops; an image of a wrong camera is in no list."""
    n, cam = len(features), cams.tolist()
    squares = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist").square().numpy()
    order = [sorted(range(n), key=lambda j: (j != i, squares[i, j], j)) for i in range(n)]
    intra = [[j for j in order[i] if cam[j] == cam[i]] for i in range(n)]
    inter = [[j for j in order[i] if cam[j] != cam[i]] for i in range(n)]
    weights = np.zeros((n, n))
    for i in range(n):
        members = {j for j in intra[i][: k1_intra + 1] if i in intra[j][: k1_intra + 1]}
        members |= {j for j in inter[i][: k1_inter + 1] if i in inter[j][: k1_inter + 1]}
        chosen = sorted(members)
        weights[i, chosen] = np.exp(-squares[i, chosen]) / np.exp(-squares[i, chosen]).sum()
    weights = np.stack([weights[intra[i][:k2_intra] + inter[i][:k2_inter]].mean(0) for i in range(n)])
    overlap = np.array([[np.minimum(a, b).sum() for b in weights] for a in weights])
    return 1 - overlap / (2 - overlap)


def small_cameras(seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and cameras: one of 40 images, one of 16, one of 3, one of a single image."""
    features = blobs(60, 6, people=5, seed=seed).vectors.double() / 2
    cams = torch.tensor([7] * 40 + [2] * 16 + [5] * 3 + [9])
    return features, cams[torch.randperm(60, generator=torch.Generator().manual_seed(seed))]


@pytest.mark.parametrize("k", [(5, 20, 2, 4), (10, 9, 6, 1), (1, 1, 1, 1), (70, 70, 2, 4)])
def test_small_cameras_have_short_lists(k: tuple[int, int, int, int]) -> None:
    features, cams = small_cameras()
    found = dense(camera_jaccard(features, cams, **dict(zip(FOUR, k))))
    assert relative(found, torch.from_numpy(textbook(features, cams, *k))) < 1e-9


def test_limit_leaves_out_what_is_far() -> None:
    features, cams = small_cameras()
    whole = dense(camera_jaccard(features, cams))
    found = camera_jaccard(features, cams, limit=0.6)
    assert torch.equal(dense(found), torch.where(whole <= 0.6, whole, 1))
    assert found.values().max() <= 0.6
    for eps in (0.4, 0.6):
        assert (dbscan(found, eps=eps, min_samples=3) == dbscan(whole, eps=eps, min_samples=3)).all()


def test_pieces_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    features, cams = small_cameras()
    monkeypatch.setitem(TILES, "cpu", (8, 16))
    for vectors in (features.float(), features[torch.arange(60) // 2].float()):  # the second has copies
        monkeypatch.setattr(reciprocal, "PIECE", 2**21)
        whole = dense(camera_jaccard(vectors, cams))
        monkeypatch.setattr(reciprocal, "PIECE", 100)
        assert torch.equal(whole, dense(camera_jaccard(vectors, cams, chunk_mb=0.002)))


def test_bad_input_is_one_clear_line() -> None:
    features, cams = small_cameras()
    unknown = torch.where(cams == 5, -1, cams)
    for call, match in (
        (lambda: camera_jaccard(features, unknown), r"3 of 60 images have no camera \(-1\)"),
        (lambda: camera_jaccard(features, 0 * cams), "all 60 images are of one camera"),
        (lambda: camera_jaccard(features, cams[:5]), r"60 features, but cameras \(5,\)"),
        (lambda: camera_jaccard(features, cams, k2_inter=0), "k2_inter 0"),
        (lambda: camera_k_reciprocal(features, features, cams, unknown), r"3 of 120 images have no camera"),
        (lambda: camera_k_reciprocal(features, features, cams, cams, lambda_value=2), "lambda"),
    ):
        with pytest.raises(InputError, match=match):
            call()
