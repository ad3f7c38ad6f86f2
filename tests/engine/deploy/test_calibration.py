"""Thresholds: the order statistic by hand, the rate on fresh people, cameras and moments, what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from crossreid import Embedder, configs
from crossreid.engine.commands import main
from crossreid.engine.deploy.calibration import calibrate
from crossreid.engine.deploy.index import build_index, open_index
from crossreid.engine.deploy.pair_truth import from_cameras, from_labels, labelled
from crossreid.engine.deploy.photos import list_photos
from crossreid.engine.deploy.training_photos import training_photos
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.features import Features
from crossreid.modeling.weights import read_checkpoint


def people(
    seed: int, count: int, photos: int = 8, dim: int = 16
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors [N, D] around a centre a person, identities, cameras."""
    rng = np.random.default_rng(seed)
    pids = np.repeat(np.arange(count), photos)
    vectors = rng.standard_normal((count, dim))[pids] + 0.4 * rng.standard_normal((len(pids), dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), pids, np.tile(np.arange(photos) % 4, count)


def rates_by_hand(
    vectors: np.ndarray, pids: np.ndarray, cams: np.ndarray, threshold: float
) -> tuple[float, float]:
    """False match rate over all pairs of different people, and the share of cross-camera pairs of one person found."""
    wrong, right = [], []
    for i in range(len(vectors)):
        for j in range(i + 1, len(vectors)):
            score = float(vectors[i] @ vectors[j])
            if pids[i] != pids[j]:
                wrong.append(score >= threshold)
            elif cams[i] != cams[j]:
                right.append(score >= threshold)
    return float(np.mean(wrong)), float(np.mean(right))


def test_the_threshold_is_the_order_statistic() -> None:
    vectors, pids, cams = people(0, 20, 5)
    result = calibrate(vectors, from_labels(pids, cams), (1e-2, 5e-3))
    assert result.different_pairs == 100 * 95 // 2
    for t in result.thresholds:
        wrong, right = rates_by_hand(vectors, pids, cams, t.threshold)
        assert int(t.rate * result.different_pairs) - 1 <= round(wrong * result.different_pairs)
        assert wrong <= t.rate
        assert t.hits == pytest.approx(right, abs=1e-9)
        assert t.low <= t.threshold <= t.high
        assert t.rate_low <= wrong <= t.rate_high


def test_fresh_people_meet_the_rate_within_its_interval() -> None:
    """In at least 17 of 20 draws (95 % intervals): the rate on others, with their own interval."""
    reached = 0
    for seed in range(20):
        t = calibrate(*_with_truth(people(seed, 60, 4)), (1e-2,)).thresholds[0]
        vectors, pids, _ = people(1000 + seed, 60, 4)
        scores = vectors @ vectors.T
        wrong = float(np.mean(scores[pids[:, None] < pids] >= t.threshold))
        spread = (t.rate_high - t.rate_low) / 2
        reached += abs(wrong - t.rate) <= np.sqrt(2) * spread
    assert reached >= 17


def passers(seed: int, moments: int = 240, stay: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors and moments of one camera: at each moment three people, each of whom stays for a dozen."""
    rng = np.random.default_rng(seed)
    rows, times = [], []
    for lane in range(3):
        people = rng.standard_normal((moments // stay + 2, 16))
        for moment in range(moments):
            person = people[(moment + 4 * lane) // stay]
            rows.append(person + 0.4 * rng.standard_normal(16))
            times.append(float(moment))
    vectors = np.array(rows)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), np.array(times)


def test_people_who_stay_make_moments_dependent() -> None:
    """Without identities stretches of time are drawn anew: wider intervals than single photos would give."""
    reached, wide, narrow = 0, 0.0, 0.0
    for seed in range(8):
        vectors, times = passers(seed, moments=300, stay=30)
        truth = from_cameras(np.zeros(len(times), int), times, np.full(len(times), -1))
        t = calibrate(vectors, truth, (0.1,)).thresholds[0]
        alone = calibrate(
            vectors, dataclasses.replace(truth, units=np.arange(len(times))), (0.1,)
        ).thresholds[0]
        fresh, when = passers(1000 + seed, moments=3000, stay=30)
        scores = fresh[np.argsort(when, kind="stable")].reshape(3000, 3, 16)
        wrong = [
            float(np.mean((scores[:, i] * scores[:, j]).sum(1) >= t.threshold))
            for i, j in ((0, 1), (0, 2), (1, 2))
        ]
        reached += t.rate_low <= np.mean(wrong) <= t.rate_high
        wide, narrow = wide + t.rate_high - t.rate_low, narrow + alone.rate_high - alone.rate_low
    assert reached >= 6
    assert wide > 1.1 * narrow


def test_stretches_of_time() -> None:
    """Twenty a camera, whatever the unit of time; a track is one unit."""
    times, cameras = np.arange(400) * 0.04, np.repeat([0, 1], 200)
    tracks = np.full(400, -1)
    tracks[100:150] = 7
    units = from_cameras(cameras, times, tracks).units
    assert len(np.unique(units[200:])) == 20
    assert len(np.unique(units[100:150])) == 1
    assert not set(units[:200]) & set(units[200:])


def test_photos_that_the_network_has_seen_do_not_count(
    checkpoint: Path,
    cameras: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those that it has not seen count alone if they suffice; else a warning, and what is stored says so."""
    photos = list_photos(cameras)
    index = str(tmp_path / "index")
    build_index(Embedder(checkpoint, device="cpu"), cameras, tmp_path / "index")
    known = {os.path.realpath(photo.path) for photo in photos[::2]}
    monkeypatch.setattr("crossreid.engine.deploy.training_photos.training_photos", lambda _: known)
    main(["calibrate", index, "--distinct", "--fmr", "0.3"])
    told = capsys.readouterr().out
    assert f"{len(known)} photos that the network was trained on are left out" in told
    assert "warning" not in told
    first = open_index(index).meta["calibration"]
    left = [i for i, photo in enumerate(photos) if os.path.realpath(photo.path) not in known]
    opened = open_index(index)
    truth = from_cameras(
        opened.columns.cameras[left], np.full(len(left), np.nan), np.full(len(left), -1), distinct=True
    )
    assert first["same"] == calibrate(opened.vectors[left], truth, wanted=0.3).summary(0.3, "")["same"]

    known.update(os.path.realpath(photo.path) for photo in photos[2:])
    main(["calibrate", index, "--distinct", "--fmr", "0.2"])
    told = capsys.readouterr().out
    assert f"warning: the network was trained on {len(known)} of these {len(photos)} photos" in told
    assert "was trained on" in open_index(index).meta["calibration"]["assumption"]


def test_which_photos_a_run_has_seen(checkpoint: Path, cameras: Path, tmp_path: Path) -> None:
    content = read_checkpoint(checkpoint)
    assert training_photos(checkpoint) == set(), "built-in domains are nobody's photos"
    cfg, _ = configs.restore(content["config"], ["DATASETS.TARGET", f"cameras:{cameras}"])
    torch.save({**content, "config": cfg.dump()}, tmp_path / "adapted.pt")
    assert training_photos(tmp_path / "adapted.pt") == {
        os.path.realpath(p.path) for p in list_photos(cameras)
    }
    cfg, _ = configs.restore(content["config"], ["DATASETS.TARGET", "cameras:/gone"])
    torch.save({**content, "config": cfg.dump()}, tmp_path / "moved.pt")
    assert training_photos(tmp_path / "moved.pt") == training_photos(tmp_path / "no.pt") == set()


def _with_truth(made: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[np.ndarray, object]:
    return made[0], from_labels(made[1], made[2])


def test_cameras_and_moments_tell_people_apart() -> None:
    cameras = np.array([0, 0, 0, 1, 1, 0])
    times = np.array([1.0, 1.0, 3.0, 1.0, np.nan, 5.0])
    tracks = np.array([0, -1, 0, -1, -1, 1])
    truth = from_cameras(cameras, times, tracks)
    masks = [truth.pairs(row) for row in range(6)]
    same = [np.flatnonzero(m[0]).tolist() for m in masks]
    other = [np.flatnonzero(m[1]).tolist() for m in masks]
    assert same == [[0, 2], [], [0, 2], [], [], [5]]
    assert [sorted(set(rows) - {i}) for i, rows in enumerate(other)] == [[1], [0, 2], [1], [], [], []]
    with pytest.raises(InputError, match="--distinct"):
        from_cameras(cameras, np.full(6, np.nan), tracks)


def test_the_command(
    checkpoint: Path, cameras: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["path,camera,time"]
    for number, photo in enumerate(list_photos(cameras)):
        lines.append(f"{photo.path},{photo.camera},{number // 12}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    build_index(Embedder(checkpoint, device="cpu"), tmp_path / "list.csv", tmp_path / "index")
    main(["calibrate", str(tmp_path / "index"), "--fmr", "0.1", "--png", str(tmp_path / "own.png")])
    assert (tmp_path / "own.png").read_bytes()[:4] == b"\x89PNG"
    assert open_index(tmp_path / "index").meta["calibration"]["fmr"] == 0.1
    main(["calibrate", str(tmp_path / "index"), "--fmr", "0.1"])
    told = capsys.readouterr().out
    assert "at the same moment are different people" in told
    stored = open_index(tmp_path / "index").meta["calibration"]
    assert stored == Embedder(checkpoint, device="cpu").calibration
    assert stored["different"] < stored["same"] == stored["thresholds"]["0.1"]["threshold"]
    assert (tmp_path / "index/calibration.png").read_bytes()[:4] == b"\x89PNG"
    assert "progress" in read_checkpoint(checkpoint)  # all else stayed
    main(["export", str(checkpoint), "--format", "pt2", "--out", str(tmp_path / "reid.pt2")])
    assert json.loads((tmp_path / "reid.json").read_text())["calibration"] == stored
    capsys.readouterr()

    with pytest.raises(SystemExit):
        main(["calibrate", str(tmp_path / "index"), "--fmr", "1e-4"])
    error = capsys.readouterr().err
    assert "needs 100,000 pairs of different people" in error
    assert "the smallest rate they show" in error
    build_index(Embedder(checkpoint, device="cpu"), cameras, tmp_path / "timeless")
    with pytest.raises(SystemExit):
        main(["calibrate", str(tmp_path / "timeless")])
    assert "--distinct" in capsys.readouterr().err


def test_labelled_features(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["eval", "cpu", str(checkpoint), "--features-only"])
    saved = checkpoint.parents[2] / "features/synthetic-winter/demo-last-query.npz"
    main(["calibrate", str(saved), "--fmr", "0.05"])
    assert "identities as labelled" in capsys.readouterr().out
    kept = json.loads(saved.with_name("demo-last-query-calibration.json").read_text())
    assert kept["fmr"] == 0.05


def test_distractors_and_junk_are_no_pairs() -> None:
    """A gallery's identity that no query has gathers many people; -1 is junk."""
    vectors = torch.nn.functional.normalize(torch.randn(8, 4))
    query = Features(2 * vectors[:3], torch.tensor([1, 2, -1]), torch.tensor([0, 1, 0]))
    gallery = Features(vectors[3:], torch.tensor([0, 1, -1, 2, 0]), torch.arange(5))
    found, pids, cams = labelled(query, gallery)
    assert pids.tolist() == [1, 2, 1, 2]
    assert cams.tolist() == [0, 1, 1, 3]
    assert np.allclose(found, vectors[[0, 1, 4, 6]].numpy(), atol=1e-6)
