"""Tables, metrics.json and saved features."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.report import (
    camera_table,
    load_features,
    save_features,
    score,
    table,
    write_metrics,
)
from crossreid.engine.evaluation.retrieval import Features, Retrieval


@pytest.fixture
def features() -> tuple[Features, Features]:
    generator = torch.Generator().manual_seed(0)
    parts = []
    for count in (20, 90):
        pids = torch.randint(5, (count,), generator=generator)
        noise = torch.randn(count, 8, generator=generator)
        vectors = torch.eye(8)[pids] * 1.5 + noise
        cams = torch.randint(3, (count,), generator=generator)
        parts.append(Features(vectors, pids, cams, [f"a/{i}ü.jpg" for i in range(count)]))
    parts[0].pids[4] = 77  # no match
    return parts[0], parts[1]


def test_saved_features_score_the_same(features: tuple[Features, Features], tmp_path: Path) -> None:
    folder = tmp_path / "features" / "market"
    files = save_features(folder, "run.v1", *features)
    assert [f.name for f in files] == ["run.v1-query.npz", "run.v1-gallery.npz"]
    assert sorted(p.name for p in folder.iterdir()) == ["run.v1-gallery.npz", "run.v1-query.npz"]
    loaded = load_features(folder, "run.v1")
    for a, b in zip(features, loaded):
        assert torch.equal(a.vectors, b.vectors)
        assert torch.equal(a.pids, b.pids)
        assert torch.equal(a.cams, b.cams)
        assert a.paths == b.paths
    options = {"rerank": True, "k1": 6, "k2": 3, "lambda_value": 0.3, "ap": "trapezoidal", "ranks": (1, 3)}
    fresh, again = score(*features, **options), score(*loaded, **options)
    assert list(fresh) == ["plain", "re-ranked"]
    for name in fresh:
        assert fresh[name].mAP == again[name].mAP
        assert fresh[name].ap == "trapezoidal"
    assert fresh["plain"].mAP != fresh["re-ranked"].mAP
    assert list(score(*features)) == ["plain"]


def test_half_precision_and_missing_paths(features: tuple[Features, Features], tmp_path: Path) -> None:
    for dtype, stored in ((torch.float16, torch.float16), (torch.bfloat16, torch.float32)):
        parts = [Features(f.vectors.to(dtype), f.pids, f.cams) for f in features]
        save_features(tmp_path, "half", *parts)
        query, _ = load_features(tmp_path, "half")
        assert query.vectors.dtype == stored
        assert torch.equal(query.vectors.float(), parts[0].vectors.float())
        assert query.paths is None


def test_unreadable_features_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no features at .*x-query\.npz"):
        load_features(tmp_path, "x")
    np.savez(tmp_path / "y-query.npz", vectors=np.ones((2, 2)))
    with pytest.raises(InputError, match=r"y-query\.npz holds no features"):
        load_features(tmp_path, "y")
    (tmp_path / "z-query.npz").write_bytes(b"text")
    with pytest.raises(InputError, match=r"z-query\.npz holds no features"):
        load_features(tmp_path, "z")


def test_table_says_which_average_precision(features: tuple[Features, Features]) -> None:
    for ap in ("rectangular", "trapezoidal"):
        results = score(*features, ap=ap, ranks=(1, 20), roc=(0.01,))
        text = table(results, "synthetic")
        header, _, line, foot, roc = text.splitlines()
        assert header.split() == ["synthetic", "mAP", "Rank-1", "Rank-20", "mINP"]
        result = results["plain"]
        numbers = [result.mAP, *result.cmc.tolist(), result.mINP]
        assert line.split() == ["plain", *(f"{100 * n:.1f}" for n in numbers)]
        assert f"{ap} average precision; {20 - result.skipped} of 20 queries have a match" in foot
        assert result.roc is not None
        assert result.roc_scores is not None
        least = result.roc_scores[0.01]
        assert roc.endswith(f"{100 * result.roc[0.01]:.1f} at 0.01 (score > {least:.4f})")


def test_camera_table(features: tuple[Features, Features]) -> None:
    result = score(*features, camera_pairs=True)["plain"]
    assert result.camera_pairs is not None
    lines = camera_table(result.camera_pairs, result.ap).splitlines()
    assert len(lines) == 2 + 2 * 3
    assert lines[1].split()[2] == "-"  # a camera against itself has no match
    assert lines[1].split()[3] == f"{100 * float(result.camera_pairs.mAP[0, 1]):.1f}"
    assert f"({int(result.camera_pairs.queries[0, 1])})" in lines[2]
    assert "rectangular average precision" in lines[-1]


def test_metrics_file(features: tuple[Features, Features], tmp_path: Path) -> None:
    results = score(*features, camera_pairs=True, roc=True)
    path = tmp_path / "deep" / "metrics.json"
    write_metrics(path, "other", results)
    write_metrics(path, "run", results, dataset="market", checkpoint="a.pt")
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]
    everything = json.loads(path.read_text())
    assert list(everything) == ["other", "run"]
    content = everything["run"]
    assert content["dataset"] == "market"
    plain = content["results"]["plain"]
    result = results["plain"]
    assert plain["mAP"] == result.mAP
    assert plain["ap"] == "rectangular"
    assert plain["cmc"]["5"] == float(result.cmc[1])
    assert (plain["queries"], plain["skipped"]) == (20, result.skipped)
    assert list(plain["roc"]) == ["0.0001", "0.001", "0.01"]
    assert plain["camera_pairs"]["mAP"][0][0] is None


def test_undefined_scores_are_null_and_a_dash(tmp_path: Path) -> None:
    nothing = torch.full((1,), math.nan, dtype=torch.float64)
    results = {"plain": Retrieval("rectangular", math.nan, math.nan, (1,), nothing, nothing, 1)}
    assert table(results).splitlines()[2].split() == ["plain", "-", "-", "-"]
    write_metrics(tmp_path / "m.json", "a", results)
    assert json.loads((tmp_path / "m.json").read_text())["a"]["results"]["plain"]["mAP"] is None


def test_a_foreign_metrics_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("[1")
    nothing = torch.full((1,), math.nan, dtype=torch.float64)
    with pytest.raises(InputError, match=r"metrics\.json is not a metrics file"):
        write_metrics(path, "a", {"plain": Retrieval("rectangular", 0.5, 0.5, (1,), nothing, nothing, 0)})
    assert path.read_text() == "[1"
