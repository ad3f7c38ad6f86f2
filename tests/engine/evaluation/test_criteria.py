"""Label-free criteria against golden arrays, scikit-learn and slow loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score
from torch.nn import functional as F

from crossreid.engine.errors import InputError
from crossreid.engine.evaluation import criteria
from crossreid.engine.evaluation.clusters import ClusterOptions, cluster_memberships
from crossreid.engine.evaluation.dbscan import dbscan
from crossreid.engine.evaluation.jaccard import Work, distances_of, jaccard
from tests.golden_arrays import settings


@pytest.mark.parametrize("setting", settings("label_free_criteria"))
def test_published_values(setting: dict[str, torch.Tensor]) -> None:
    labels, cams = setting["labels"], setting["cams"]
    expected = {
        "silhouette": criteria.silhouette(setting["distance"], labels),
        "ari_both_clustered": criteria.stability(setting["labels_before"], labels),
        "ari_all": criteria.rand_index(setting["labels_before"], labels),
        "camera_entropy": criteria.camera_entropy(labels, cams),
        "snd": criteria.neighborhood_density(setting["features"], temperature=float(setting["tau"])),
    }
    for name, value in expected.items():
        assert value == pytest.approx(float(setting[name]), rel=1e-12), name


def domain(people: int = 12, images: int = 10, seed: int = 0) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Features of people seen by three cameras: features, identities, cameras."""
    generator = torch.Generator().manual_seed(seed)
    pids = torch.arange(people).repeat_interleave(images)
    centres = torch.randn(people, 16, generator=generator)
    features = centres[pids] + 0.35 * torch.randn(len(pids), 16, generator=generator)
    cams = torch.randint(3, (len(pids),), generator=generator)
    return features, pids.numpy(), cams.numpy()


def test_silhouette_of_a_sparse_distance_is_that_of_the_dense_one() -> None:
    features, pids, _ = domain()
    distance = jaccard(F.normalize(features).double(), k1=12, k2=4)
    full = np.ones(distance.shape)
    full[tuple(distance.indices().numpy())] = distance.values().numpy()
    np.fill_diagonal(full, 0)
    labels = np.where(np.arange(len(pids)) % 7 == 0, -1, pids)
    labels[:10] = [20, *[-1] * 9]  # one cluster of a single point, which counts 0
    chosen = labels >= 0
    expected = silhouette_score(full[chosen][:, chosen], labels[chosen], metric="precomputed")
    assert criteria.silhouette(distance, labels) == pytest.approx(expected, rel=1e-9)


def test_where_there_is_nothing_to_measure() -> None:
    assert math.isnan(criteria.silhouette(np.zeros((3, 3)), [0, 0, -1]))  # one cluster
    assert math.isnan(criteria.camera_entropy([0, 0, 1], [4, 4, 4]))  # one camera
    assert math.isnan(criteria.camera_entropy([-1, -1], [0, 1]))
    assert math.isnan(criteria.stability([0, -1], [-1, 0]))
    assert math.isnan(criteria.neighborhood_density(torch.ones(1, 3)))


def test_density_of_a_sample_and_in_pieces() -> None:
    features, _, _ = domain(people=60)
    scores = F.normalize(features.double()) @ F.normalize(features.double()).T / 0.05
    entropy = 0.0
    for i in range(len(scores)):
        p = torch.cat([scores[i, :i], scores[i, i + 1 :]]).softmax(0)
        entropy -= float((p * p.log()).sum()) / len(scores)
    assert criteria.neighborhood_density(features.double()) == pytest.approx(entropy, rel=1e-12)
    few = criteria.neighborhood_density(features, sample=50)
    assert few == pytest.approx(criteria.neighborhood_density(features[torch.linspace(0, 599, 50).long()]))


OPTIONS = ClusterOptions(k1=10, k2=3, eps=0.5)


def test_silhouette_from_memberships_is_that_of_the_distances() -> None:
    features, _, cams = domain()
    rows = cluster_memberships(features.double(), cams, OPTIONS, Work())
    distance = distances_of(rows, Work())
    labels = dbscan(distance, eps=0.5, min_samples=4)
    labels[:14] = [*[-1] * 12, 50, 51]
    whole = criteria.silhouette(distance, labels)
    assert criteria.sampled_silhouette(rows, labels) == pytest.approx(whole, rel=1e-12)
    assert criteria.sampled_silhouette(rows, labels, sample=60) == pytest.approx(whole, abs=0.05)
    assert math.isnan(criteria.sampled_silhouette(rows, np.full(120, -1)))


def test_report_sees_people_and_cameras() -> None:
    features, pids, cams = domain()
    values, labels = criteria.report(features, cams, OPTIONS)
    assert {*criteria.CRITERIA} - {"source_guided"} <= set(values)
    assert math.isnan(values["stability"])
    assert values["clusters"] == 12
    assert criteria.rand_index(pids[labels >= 0], labels[labels >= 0]) == 1
    again, same = criteria.report(3 * features, cams, OPTIONS, before=labels)
    assert again["stability"] == 1
    assert (same == labels).all()  # the length of a vector means nothing
    assert 0.8 < again["camera_entropy"] < 1
    assert 0.3 < again["silhouette"] < 1
    biased = features + 8 * F.one_hot(torch.from_numpy(cams), 16)  # features that show the camera first
    other, _ = criteria.report(biased, cams, OPTIONS)
    assert other["camera_entropy"] < 0.3
    normalised, _ = criteria.report(biased, cams, replace(OPTIONS, camera_norm=True))
    assert normalised["camera_entropy"] > 0.8


def test_report_of_cameras_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="4 features, but 3 cameras"):
        criteria.report(torch.randn(4, 2), [0, 1, 2])


def test_source_guided_radius_finds_the_identities() -> None:
    generator = torch.Generator().manual_seed(1)
    looks = torch.randn(6, 16, generator=generator).repeat_interleave(2, 0)  # two people of each look
    people = looks + 0.5 * torch.randn(12, 16, generator=generator)
    pids = torch.arange(12).repeat_interleave(10)
    features = people[pids] + 0.35 * torch.randn(120, 16, generator=generator)
    scores = criteria.source_guided(features, pids, eps=(0.05, 0.5, 0.95), k1=14, k2=3)
    assert scores[0.05] < 0.5  # most images are outliers
    assert scores[0.5] > 0.95
    assert scores[0.95] < 0.7  # two people become one
    same = criteria.source_guided(
        features, pids, eps=(0.05, 0.5, 0.95), cameras=pids * 0, options=replace(OPTIONS, k1=14, k2=3)
    )
    assert same == scores


def test_whole_identities_are_few_and_whole() -> None:
    pids = np.repeat(np.arange(50), 7)[np.random.default_rng(0).permutation(350)]
    rows = criteria.whole_identities(pids, 100)
    assert len(rows) == 98
    assert (np.diff(rows) > 0).all()
    assert len(set(pids[rows])) == 14
    assert set(np.flatnonzero(np.isin(pids, pids[rows]))) == set(rows)
    assert np.diff(sorted(set(pids[rows]))).max() <= 8  # spread
    assert len(criteria.whole_identities(pids, 1000)) == 350


def test_a_source_without_cameras_is_not_clustered_by_camera() -> None:
    by_camera, by_norm = replace(OPTIONS, distance="ca_jaccard"), replace(OPTIONS, camera_norm=True)
    assert [criteria.can_cluster([0, 1, -1], options) for options in (OPTIONS, by_camera, by_norm)] == [
        True,
        False,
        False,
    ]
    assert [criteria.can_cluster([3, 3, 3], options) for options in (by_camera, by_norm)] == [False, True]
    assert criteria.can_cluster([3, 4, 3], by_camera)
