"""DBSCAN and the description of clusters against golden arrays, scikit-learn on dense distances, and by hand."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.cluster import DBSCAN
from torch.nn import functional as F

from crossreid.engine.distributed import group
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.clusters import (
    ClusterOptions,
    camera_counts,
    cluster,
    describe,
    without_single_camera,
)
from crossreid.engine.evaluation.dbscan import dbscan
from crossreid.engine.evaluation.features import TILES, FeatureMatrix
from crossreid.engine.evaluation.jaccard import jaccard
from crossreid.engine.evaluation.neighbors import approximate_points, nearest_points
from crossreid.engine.evaluation.rerank import camera_jaccard
from tests.engine.evaluation.test_rerank import blobs
from tests.golden_arrays import settings
from tests.ranks import run_ranks


@pytest.mark.parametrize("setting", settings("dbscan"))
def test_published_labels_of_dense_distances(setting: dict[str, torch.Tensor]) -> None:
    for eps, labels in zip(setting["eps"].tolist(), setting["labels"]):
        found = dbscan(setting["distance"], eps=eps, min_samples=int(setting["min_samples"]))
        assert found.tolist() == labels.tolist()
    assert (setting["labels"] < 0).any()
    assert (setting["labels"] > 0).any()


@pytest.mark.parametrize("setting", settings("clustering_jaccard"))
def test_published_labels_of_the_sparse_jaccard_distance(setting: dict[str, torch.Tensor]) -> None:
    distance = jaccard(setting["features"], k1=int(setting["k1"]), k2=int(setting["k2"]))
    for eps, labels in zip(setting["eps"].tolist(), setting["labels"]):
        found = dbscan(distance, eps=eps, min_samples=int(setting["min_samples"]))
        assert found.tolist() == labels.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_equals_scikit_learn_whatever_the_storage(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(size=(12, 2))[rng.integers(12, size=150)] + 0.06 * rng.normal(size=(150, 2))
    points = np.round(points, 2)  # some equal points: distances of 0 between two images
    distance = np.clip(np.linalg.norm(points[:, None] - points[None], axis=2), 0, 1)
    assert (distance[~np.eye(150, dtype=bool)] == 0).any()
    rows, columns = np.nonzero(distance < 1)
    sparse = csr_array((distance[rows, columns], (rows, columns)), shape=distance.shape)
    coo = torch.sparse_coo_tensor(np.array([rows, columns]), distance[rows, columns], distance.shape)
    upper = rows < columns  # one triangle is enough, the diagonal may be absent
    half = csr_array((distance[rows, columns][upper], (rows[upper], columns[upper])), shape=distance.shape)
    for eps in (0.03, 0.04, 0.06):
        expected = DBSCAN(eps=eps, min_samples=4, metric="precomputed").fit(distance).labels_
        assert -1 in expected
        assert expected.max() > 1
        for stored in (distance, torch.from_numpy(distance), sparse, coo, half):
            assert dbscan(stored, eps=eps, min_samples=4).tolist() == expected.tolist()


def test_no_cluster_is_a_result() -> None:
    assert dbscan(np.ones((5, 5)) - np.eye(5), eps=0.5, min_samples=2).tolist() == [-1] * 5


def test_options_that_make_no_sense() -> None:
    sparse = csr_array(np.eye(3))
    with pytest.raises(InputError, match="eps below 1"):
        dbscan(sparse, eps=1.0, min_samples=2)
    with pytest.raises(InputError, match="eps > 0"):
        dbscan(sparse, eps=math.nan, min_samples=2)
    with pytest.raises(InputError, match=r"\[N, N\], got \(3, 2\)"):
        dbscan(np.zeros((3, 2)), eps=0.5, min_samples=2)


LABELS = np.array([0, 0, 1, 1, 1, -1, 2, 2])
CAMERAS = np.array([3, 3, 3, 5, 5, 7, 5, 7])


def test_description_by_hand() -> None:
    counts, own = camera_counts(LABELS, CAMERAS)
    assert counts.tolist() == [[2, 0, 0], [1, 2, 0], [0, 1, 1]]
    assert own.sum() == 7
    found = describe(torch.from_numpy(LABELS), CAMERAS)
    assert found == pytest.approx(
        {"clusters": 3, "clustered": 7 / 8, "size_q10": 2, "size_median": 2, "size_q90": 2.8, "cameras": 5 / 3,
         "single_camera": 1 / 3}
    )  # fmt: skip
    nothing = describe(np.full(4, -1), np.zeros(4))
    assert nothing["clusters"] == nothing["clustered"] == 0
    assert math.isnan(nothing["single_camera"])


def test_clusters_of_one_camera_are_left_out() -> None:
    assert without_single_camera(LABELS, CAMERAS).tolist() == [-1, -1, 0, 0, 0, -1, 1, 1]
    assert without_single_camera(np.full(3, -1), np.zeros(3)).tolist() == [-1, -1, -1]


# ---------------------------------------------------------------- features to labels


def target(count: int = 160, seed: int = 1) -> tuple[torch.Tensor, np.ndarray]:
    found = blobs(count, 12, people=10, seed=seed)
    return found.vectors, found.cams.numpy()


def test_cluster_is_dbscan_on_the_distance_of_unit_features() -> None:
    features, cams = target()
    plain = cluster(5 * features, cams, ClusterOptions(k1=12, k2=4, eps=0.55))
    expected = dbscan(jaccard(F.normalize(features), k1=12, k2=4), eps=0.55, min_samples=4)
    assert plain.tolist() == expected.tolist()
    assert expected.max() > 3
    four = {"k1_intra": 4, "k1_inter": 9, "k2_intra": 2, "k2_inter": 3}
    aware = cluster(features, cams, ClusterOptions(distance="ca_jaccard", eps=0.5, **four))
    expected = dbscan(camera_jaccard(F.normalize(features), cams, **four), eps=0.5, min_samples=4)
    assert aware.tolist() == expected.tolist()
    assert aware.tolist() != plain.tolist()
    several = cluster(features, cams, ClusterOptions(k1=12, k2=4, eps=0.55, several_cameras=True))
    assert several.tolist() == without_single_camera(plain, cams).tolist()


def test_radius_grows_while_there_are_too_few_clusters(caplog: pytest.LogCaptureFixture) -> None:
    features, cams = target()
    logger = logging.getLogger("crossreid")
    logger.propagate, before = True, logger.propagate
    try:
        found = cluster(features, cams, ClusterOptions(k1=12, k2=4, eps=0.04))
    finally:
        logger.propagate = before
    assert found.max() >= 1
    assert "too few clusters at eps 0.04: took eps" in caplog.text
    with pytest.raises(InputError, match=r"160 images make \d+ clusters even at eps 0.\d+, 100 are needed"):
        cluster(features, cams, ClusterOptions(k1=12, k2=4), least=100)


def _labels(rank: int, world: int) -> Any:
    TILES["cpu"] = (8, 16)
    features, cams = target()
    return [
        cluster(
            features, cams, ClusterOptions(k1=12, k2=4, k1_inter=9, distance=name), ranks=group(world > 1)
        ).tolist()
        for name in ("jaccard", "ca_jaccard")
    ]


@pytest.mark.ddp
def test_two_ranks_and_small_chunks_give_the_same_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TILES, "cpu", (8, 16))
    alone = _labels(0, 1)
    assert max(alone[0]) > 3
    features, cams = target()
    small = ClusterOptions(k1=12, k2=4, chunk_mb=0.002)
    assert cluster(features, cams, small).tolist() == alone[0]
    for labels in run_ranks(_labels, 2):
        assert labels == alone


def test_options_are_checked_at_once() -> None:
    for keys, match in (
        ({"distance": "cosine"}, "'cosine' does not exist: choose jaccard or ca_jaccard"),
        ({"distance": "ca_jaccard", "index": "faiss"}, "goes with the distance jaccard alone"),
        ({"eps": 1.0}, "eps 1.0 must lie between 0 and 1"),
        ({"min_samples": 0}, "min_samples 0 be 1 or more"),
    ):
        with pytest.raises(InputError, match=match):
            ClusterOptions(**keys)
    features, cams = target()
    for keys, match in (
        ({"index": "hnsw"}, "'hnsw' does not exist: choose exact or faiss"),
        ({"k1": 0}, "k1 0"),
        ({"distance": "ca_jaccard", "k2_intra": 0}, "k2_intra 0"),
    ):
        with pytest.raises(InputError, match=match):
            cluster(features, cams, ClusterOptions(**keys))


def test_more_neighbours_than_images() -> None:
    features, cams = target(count=6)
    assert len(cluster(features, cams, ClusterOptions(k1=30, k2=6, eps=0.9), least=0)) == 6
    assert len(cluster(features, cams, ClusterOptions(distance="ca_jaccard", eps=0.9), least=0)) == 6


def test_faiss_finds_nearly_the_same_neighbours() -> None:
    pytest.importorskip("faiss")
    features, cams = target(count=700)
    features[30] = features[400]  # a copy: each of the two is first in its own list
    exact = cluster(features, cams, ClusterOptions(k1=12, k2=4))
    near = cluster(features, cams, ClusterOptions(k1=12, k2=4, index="faiss"))
    assert (exact >= 0).sum() > 300
    from sklearn.metrics import adjusted_rand_score

    assert adjusted_rand_score(exact, near) > 0.9
    matrix = FeatureMatrix(features)
    index = approximate_points(matrix, 10)
    assert index[:, 0].tolist() == list(range(700))
    assert all(len(set(row)) == 10 for row in index.tolist())
    truth = nearest_points(matrix, 10)[0]
    shared = [len(set(a) & set(b)) for a, b in zip(index.tolist(), truth.tolist())]
    assert np.mean(shared) > 9
    few = approximate_points(matrix, 650)  # more than the cells looked at hold
    assert all(len(set(row)) == 650 for row in few.tolist())
