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
