"""Per-camera normalisation against a loop, and where statistics are missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.camera_norm import camera_normalize, normalize_sets
from crossreid.engine.evaluation.features import Features
from tests.golden_arrays import relative


def test_equals_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 6, generator=generator, dtype=torch.float64) + 3
    cams = torch.randint(3, (40,), generator=generator) * 5
    expected = np.empty((40, 6))
    for i, camera in enumerate(cams.tolist()):
        like = features[cams == camera].numpy()
        row = (features[i].numpy() - like.mean(0)) / like.std(0)
        expected[i] = row / np.linalg.norm(row)
    assert relative(camera_normalize(features, cams), torch.from_numpy(expected)) < 1e-12
    assert relative(camera_normalize(features.float(), cams.numpy()), torch.from_numpy(expected)) < 1e-5
    half = camera_normalize(features.half(), cams)
    assert half.dtype == torch.float16
    assert relative(half, torch.from_numpy(expected)) < 0.02


def test_small_and_unknown_cameras_take_the_statistics_of_all() -> None:
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cams = torch.tensor([0] * 20 + [1] * 8 + [2] + [-1])
    found = camera_normalize(features, cams)
    every = camera_normalize(features, torch.zeros(30))
    assert torch.equal(found[28:], every[28:])
    assert not torch.allclose(found[:20], every[:20])
    assert torch.equal(camera_normalize(features, cams, min_images=9)[20:], every[20:])


def test_constant_dimensions_stay_finite() -> None:
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    features[:, 2] = 0.7
    found = camera_normalize(features, torch.arange(50) % 2)
    assert found.isfinite().all()
    assert found[:, 2].abs().max() < 0.01
    assert torch.equal(camera_normalize(torch.ones(4, 3), [0, 0, 0, 0]), torch.zeros(4, 3))


def test_query_and_gallery_by_the_gallerys_statistics_without_junk() -> None:
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    query = Features(vectors[:10], torch.arange(10), torch.arange(10) % 2)
    gallery = Features(vectors[10:], torch.arange(50) % 10, torch.arange(50) % 2)
    gallery.pids[::7] = -1
    gallery.vectors[::7] = 1e6
    new_query, new_gallery = normalize_sets(query, gallery)
    real = (gallery.pids != -1) & (gallery.cams == 1)
    mean, deviation = gallery.vectors[real].mean(0), gallery.vectors[real].std(0, correction=0)
    expected = torch.nn.functional.normalize((query.vectors[1::2] - mean) / deviation)
    torch.testing.assert_close(new_query.vectors[1::2], expected)
    assert new_gallery.pids is gallery.pids
    gallery.pids[:] = -1
    assert normalize_sets(query, gallery)[0] is query


def test_cameras_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="4 features, but 3 cameras"):
        camera_normalize(torch.randn(4, 2), [0, 1, 2])
