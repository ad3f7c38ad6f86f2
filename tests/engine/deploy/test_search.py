"""Embedder, index and search against eval.py's features and a brute-force loop."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossreid import Embedder
from crossreid.engine.commands import main
from crossreid.engine.deploy.index import Index, build_index, open_index
from crossreid.engine.deploy.photos import list_photos, time_of
from crossreid.engine.deploy.search import BLOCK, Filter, nearest, person, search
from crossreid.engine.errors import InputError


def brute_force(
    vectors: np.ndarray, query: np.ndarray, top: int, allowed: np.ndarray | None = None
) -> list[int]:
    """Rows by falling score in float64, the lower row first among equals."""
    scored = []
    for row, vector in enumerate(vectors):
        if allowed is None or allowed[row]:
            score = float((vector.astype(np.float64) * query.astype(np.float64)).sum())
            scored.append((-score, row))
    return [row for _, row in sorted(scored)[:top]]


@pytest.mark.parametrize("rows", [1, 7, BLOCK, 2 * BLOCK + 5])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_nearest_is_a_brute_force_loop(rows: int, dtype: type) -> None:
    """Many exact ties: only 40 different vectors, and coordinates that are halves."""
    rng = np.random.default_rng(rows)
    different = rng.choice([-0.5, 0.0, 0.5], (40, 24))
    vectors = different[rng.integers(0, 40, rows)].astype(dtype)
    query = rng.choice([-0.5, 0.5], 24).astype(np.float32)
    allowed = rng.random(rows) < 0.6
    for top in (1, 10, 300):
        found, scores = nearest(vectors, query, top)
        assert found.tolist() == brute_force(vectors, query, top)
        assert np.array_equal(scores, (vectors[found].astype(np.float64) * query.astype(np.float64)).sum(1))
        found, _ = nearest(vectors, query, top, allowed)
        assert found.tolist() == brute_force(vectors, query, top, allowed)


def test_nearest_separates_what_float32_cannot() -> None:
    """Scores that differ by less than float32 tells are in the order of their float64 values."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal(512)
    base = (base / np.linalg.norm(base)).astype(np.float32)
    vectors = np.repeat(base[None], 3 * BLOCK, 0)
    vectors[np.arange(len(vectors)), rng.integers(0, 512, len(vectors))] *= np.float32(1 + 2e-7)
    assert nearest(vectors, base, 20)[0].tolist() == brute_force(vectors, base, 20)


def test_embedder_gives_the_features_of_eval(checkpoint: Path) -> None:
    main(["eval", "cpu", str(checkpoint), "--features-only", "SOLVER.AMP", "float32", "TEST.FLIP", "true"])
    saved = checkpoint.parents[2] / "features/synthetic-winter/demo-last-gallery.npz"
    with np.load(saved) as file:
        paths, vectors = file["paths"].tolist(), file["vectors"]
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    embedder = Embedder(checkpoint, device="cpu", batch_size=5, overrides=["TEST.FLIP", "true"])
    found = embedder(paths)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in paths[:3]]
    assert np.abs(embedder(arrays) - found[:3]).max() < 1e-6
    assert np.abs(embedder([Image.fromarray(arrays[0])]) - found[:1]).max() < 1e-6
    assert Embedder(checkpoint, device="cpu").digest != embedder.digest


def same(first: Index, second: Index) -> None:
    assert np.array_equal(first.vectors, second.vectors)
    for name in ("paths", "camera_names"):
        assert getattr(first.columns, name) == getattr(second.columns, name)
    for name in ("cameras", "tracks", "persons", "times", "stamps"):
        assert np.array_equal(getattr(first.columns, name), getattr(second.columns, name), equal_nan=True)


def test_an_index_brought_up_to_date_is_a_new_one(checkpoint: Path, cameras: Path, tmp_path: Path) -> None:
    embedder = Embedder(checkpoint, device="cpu", batch_size=8)
    photos = list_photos(cameras)
    aside = tmp_path / "aside.jpg"
    shutil.move(photos[2].path, aside)
    _, counts = build_index(embedder, cameras, tmp_path / "kept")
    assert counts == {"added": len(photos) - 1, "removed": 0, "kept": 0}
    shutil.move(aside, photos[2].path)
    Path(photos[5].path).unlink()
    shutil.copy(photos[1].path, photos[0].path)  # another picture under an old name
    kept, counts = build_index(embedder, cameras, tmp_path / "kept")
    assert counts == {"added": 2, "removed": 2, "kept": len(photos) - 3}
    new, _ = build_index(embedder, cameras, tmp_path / "new")
    same(kept, new)
    assert kept.vectors.dtype == np.float16
    assert build_index(embedder, cameras, tmp_path / "kept")[1]["added"] == 0


def test_the_commands(
    checkpoint: Path, cameras: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["index", str(checkpoint), str(cameras), "--out", str(tmp_path / "index"), "--device", "cpu"])
    assert "of 3 cameras (" in capsys.readouterr().out
    index = open_index(tmp_path / "index")
    query = index.columns.paths[3]
    files = [str(tmp_path / f"hits.{kind}") for kind in ("csv", "html", "png")]
    main(
        ["search", str(tmp_path / "index"), query, "--top", "4", "--other-cameras", "--device", "cpu"]
        + ["--csv", files[0], "--html", files[1], "--png", files[2]]
    )
    table = capsys.readouterr().out.splitlines()
    with Path(files[0]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["rank", "path", "camera", "score"]
    vector = Embedder(checkpoint, device="cpu")([query])[0]
    others = np.array([index.camera(row) != index.camera(3) for row in range(len(index))])
    expected = brute_force(index.vectors, person(vector[None]), 4, others)
    assert [row["path"] for row in rows] == [index.columns.paths[row] for row in expected]
    assert index.camera(3) not in {row["camera"] for row in rows}
    assert table[-5].split() == ["rank", "score", "camera", "time", "path"]
    page = Path(files[1]).read_text()
    assert page.count("data:image/jpeg;base64") == 5
    assert "http" not in page
    assert Image.open(files[2]).size[0] > 5 * 96

    main(
        [
            "embed",
            str(checkpoint),
            str(cameras / "door1"),
            query,
            "--out",
            str(tmp_path / "v.npz"),
            "--device",
            "cpu",
        ]
    )
    with np.load(tmp_path / "v.npz") as file:
        assert np.abs(file["vectors"][-1] - vector).max() < 1e-6
        assert str(file["digest"]) == index.digest


def test_vectors_as_parquet(
    checkpoint: Path,
    cameras: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "v.parquet"
    command = [
        "embed",
        str(checkpoint),
        str(cameras),
        "--out",
        str(out),
        "--device",
        "cpu",
        "TEST.FLIP",
        "true",
    ]
    main(command)
    table = parquet.read_table(out)
    embed = Embedder(checkpoint, device="cpu", overrides=["TEST.FLIP", "true"])
    paths = table["path"].to_pylist()
    assert paths == [photo.path for photo in list_photos(cameras)]
    assert np.abs(np.array(table["vector"].to_pylist()) - embed(paths)).max() < 1e-6
    assert table.schema.metadata[b"digest"].decode() == embed.digest
    out.unlink()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SystemExit):
        main(command)
    assert "parquet needs pyarrow: pip install pyarrow" in capsys.readouterr().err
    assert not out.exists()


def test_keys_behind_a_search(
    checkpoint: Path, cameras: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that the index was made with hold by themselves; others may change no vector."""
    index = str(tmp_path / "index")
    main(["index", str(checkpoint), str(cameras), "--out", index, "--device", "cpu", "TEST.FLIP", "true"])
    photo = open_index(index).columns.paths[0]
    main(["search", index, photo, "--device", "cpu", "TEST.CHUNK_MB", "64"])
    assert photo in capsys.readouterr().out
    main(["calibrate", index, "--distinct", "--fmr", "0.2", "TEST.CHUNK_MB", "64"])
    assert f"stored: {checkpoint}" in capsys.readouterr().out
    assert Embedder(checkpoint, device="cpu").calibration is None
    assert Embedder(checkpoint, device="cpu", overrides=["TEST.FLIP", "true"]).calibration is not None
    with pytest.raises(SystemExit):
        main(["search", index, photo, "--device", "cpu", "TEST.FLIP", "false"])
    assert "was made by the model" in capsys.readouterr().err


def test_several_photos_times_and_reranking(checkpoint: Path, cameras: Path, tmp_path: Path) -> None:
    lines = ["path,camid,time,pid"]
    for number, photo in enumerate(list_photos(cameras)):
        lines.append(f"{Path(photo.path).relative_to(tmp_path)},{photo.camera},{number},-1")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    embedder = Embedder(checkpoint, device="cpu")
    index, _ = build_index(embedder, tmp_path / "list.csv", tmp_path / "index", dtype="float32")
    query = person(index.vectors[:2])
    mean = index.vectors[:2].astype(np.float64).mean(0)
    assert np.abs(query - mean / np.linalg.norm(mean)).max() < 1e-6
    camera = index.camera(12)
    hits = search(index, query, top=50, only=Filter(cameras=(camera,), start=10, end=25))
    assert {hit.row for hit in hits} == {row for row in range(10, 26) if index.camera(row) == camera}
    again = search(index, query, top=50, rerank=True)
    assert sorted(hit.row for hit in again) == list(range(len(index)))
    assert [hit.row for hit in again] != [hit.row for hit in search(index, query, top=50)]


def test_an_approximate_index(checkpoint: Path, cameras: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    from crossreid.engine.deploy.faiss_index import build_faiss, search_faiss

    index, _ = build_index(Embedder(checkpoint, device="cpu"), cameras, tmp_path / "index")
    build_faiss(index)
    query = np.asarray(index.vectors[1], np.float32)
    only = Filter(exclude=("door1",))
    found, exact = search_faiss(index, query, only=only), search(index, query, only=only)
    assert [(h.row, h.score) for h in found] == [(h.row, h.score) for h in exact]  # all lists are visited


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("2024-05-01_12-00-03_7.jpg", 1714564803.0),
        ("cam3-20240501T120003.250.jpg", 1714564803.25),
        ("1714564803250.jpg", 1714564803.25),
        ("0001_c2_f0046182.jpg", 46182.0),
        ("photo12.jpg", float("nan")),
        ("20249901120000.jpg", float("nan")),
    ],
)
def test_times_in_names(name: str, time: float) -> None:
    assert time_of(name) == pytest.approx(time, nan_ok=True)


def test_bad_input(
    checkpoint: Path, cameras: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: object) -> str:
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    out = tmp_path / "index"
    make = ["index", checkpoint, cameras, "--out", out, "--device", "cpu"]
    (cameras / "empty").mkdir()
    assert "empty camera folder" in refused(*make)
    (cameras / "empty").rmdir()
    (cameras / "door1/broken.jpg").write_bytes(b"\xff\xd8 nothing")
    assert "broken.jpg: does not decode" in refused(*make)
    main([*map(str, make), "--skip-corrupt"])
    (cameras / "door1/broken.jpg").unlink()
    Image.new("RGB", (5, 5)).save(cameras / "door1/small.png")
    assert "5x5 pixels" in refused(*make)
    (cameras / "door1/small.png").unlink()
    assert "not like" not in refused("search", out, cameras / "nobody.jpg")
    photo = list_photos(cameras)[0].path
    assert "it has door1, door2, door3" in refused("search", out, photo, "--camera", "roof")
    assert "no photo of the index is left" in refused("search", out, photo, "--from", "2020-01-01")
    assert "neither a number" in refused("search", out, photo, "--from", "noon")
    content = torch.load(checkpoint, weights_only=True)
    content["model"]["neck.weight"] += 1
    torch.save(content, tmp_path / "other.pt")
    other = ["search", out, photo, "--checkpoint", tmp_path / "other.pt", "--device", "cpu"]
    assert "was made by the model" in refused(*other)
    assert "was made by the model" in refused(
        "index", tmp_path / "other.pt", cameras, "--out", out, "--device", "cpu"
    )
    with (out / "vectors.npy").open("r+b") as file:
        file.truncate(1000)
    assert "truncated or damaged" in refused("search", out, photo)
    assert "no index there" in refused("search", tmp_path / "none", photo)
    assert "holds other things" in refused("index", checkpoint, cameras, "--out", cameras, "--device", "cpu")
    with pytest.raises(InputError, match="does not exist"):
        Embedder(checkpoint, device="toaster")
