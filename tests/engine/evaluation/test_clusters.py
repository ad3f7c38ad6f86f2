"""DBSCAN and the description of clusters against golden arrays, scikit-learn on dense distances, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.cluster import DBSCAN

from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.clusters import camera_counts, dbscan, describe, without_single_camera
from crossreid.engine.evaluation.rerank import jaccard
from tests.golden_arrays import settings


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
