from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.datasets import trees

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path, root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "crossreid", "datasets", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=root,
        env={**os.environ, "REID_DATASETS": str(root), "PYTHONPATH": str(ROOT)},
    )


def test_report_and_contact_sheets(tmp_path: Path) -> None:
    market = trees.market(tmp_path / "Market-1501-v15.09.15")
    trees.cuhk_np(tmp_path / "cuhk03-np" / "detected")
    trees.picture(market / "query" / "0009_c1s1_000001_00.jpg", 1, (50, 20))  # an identity the gallery lacks
    trees.picture(market / "bounding_box_train" / "0012_c2s1_000001_00.jpg")  # seen by one camera
    bad = market / "bounding_box_test" / "0005_c5s1_000451_03.jpg"
    bad.write_bytes(bad.read_bytes()[:150])
    done = run("--output", tmp_path / "sheets", root=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "train 5 17 3 1 1 32x64" in lines
    assert "query 3 3 2 3 0 20x50-32x64" in lines
    assert "gallery 3 4 3 3 1 32x64" in lines
    assert "queries without a match in another camera: 1 of 3" in lines
    assert "files that do not decode: 1" in lines
    assert any(line.startswith(f"{bad} OSError: ") for line in lines)
    assert any(line.startswith("warning: market/train: found 5 identities") for line in lines)
    assert sorted(path.name for path in (tmp_path / "sheets").iterdir()) == [
        "cuhk-detected.png",
        "market.png",
    ]
    with Image.open(tmp_path / "sheets" / "market.png") as sheet:
        assert sheet.size == (12 * 68, 5 * 144)
        assert len(sheet.getcolors(1 << 20) or []) > 500


def test_nothing_found(tmp_path: Path) -> None:
    done = run(root=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no published dataset found below")
    done = run("market", root=tmp_path)
    assert done.returncode == 2
    assert "Market-1501-v15.09.15  (not there)" in done.stderr


def test_cameras_without_labels_repeated_and_turned_images(tmp_path: Path) -> None:
    root = tmp_path / "own"
    for seed, name in enumerate(["hall/1.jpg", "hall/2.jpg", "yard/1.jpg", "yard/2.jpg"]):
        trees.picture(root / name, seed)
    (root / "yard" / "again.jpg").write_bytes((root / "hall" / "2.jpg").read_bytes())
    exif = Image.Exif()
    exif[0x112] = 6
    Image.open(root / "hall" / "1.jpg").save(root / "yard" / "2.jpg", exif=exif)
    done = run(f"cameras:{root}", "--output", tmp_path / "sheets", root=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for line in (
        "train unknown 5 2 0 0 32x32-64x64",
        "gallery none",
        "images of each camera (number, count): 1 (hall) 2, 2 (yard) 3",
        "images of unknown identity (-1): 5; a target may have them, a source goes without",
        "no query and gallery with identities: nothing can be scored",
        "photographs turned upright (EXIF orientation): 1",
        "images that are more than once in train: 1",
        f"{root}/hall/2.jpg = {root}/yard/again.jpg",
    ):
        assert line in lines, done.stdout
    (sheet,) = (tmp_path / "sheets").iterdir()
    with Image.open(sheet) as picture:
        assert picture.size == (12 * 68, 2 * 144)  # a row each camera


def test_an_image_in_train_and_query_is_reported(tmp_path: Path) -> None:
    root = tmp_path / "own"
    for seed, name in enumerate(["train/1_c1.jpg", "train/1_c2.jpg", "query/5_c1.jpg", "gallery/5_c2.jpg"]):
        trees.picture(root / name, seed)
    (root / "query" / "6_c1.jpg").write_bytes((root / "train" / "1_c2.jpg").read_bytes())
    done = run(f"folder:{root}", "folder", "--output", tmp_path / "sheets", "--root", root, root=tmp_path)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines.count("images that are both in train and in query: 1") == 2, done.stdout
    assert f"{root}/train/1_c2.jpg = {root}/query/6_c1.jpg" in lines
    assert not any("in gallery" in line or "more than once" in line for line in lines)
    assert "images that are there twice: 0" not in lines
    assert sorted(path.name for path in (tmp_path / "sheets").iterdir()) == ["folder-own.png", "folder.png"]
