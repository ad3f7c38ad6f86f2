"""Small dataset trees in the layouts and with the file names of the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (64, 32)) -> None:
    """A smooth random image of ``size`` (height, width), in the format of the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (4, 2, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((size[1], size[0]), Image.Resampling.BICUBIC).save(path)


def pictures(folder: Path, names: list[str]) -> None:
    for seed, name in enumerate(names):
        picture(folder / name, seed)


def market(root: Path) -> Path:
    """4 training identities, junk, a distractor, and what archives bring along."""
    train = [
        f"{pid:04d}_c{cam}s1_00{pid}{cam}51_0{k}.jpg"
        for pid in (2, 7, 10, 11)
        for cam in (1, 3)
        for k in (1, 2)
    ]
    pictures(root / "bounding_box_train", [*train, "-1_c2s1_000001_00.jpg"])
    pictures(root / "query", ["0003_c1s1_000100_00.jpg", "0005_c6s2_000100_00.JPG"])
    gallery = [
        "-1_c1s1_000401_03.jpg",
        "0000_c1s1_000151_01.jpg",
        "0003_c2s1_000451_03.jpg",
        "0005_c5s1_000451_03.jpg",
    ]
    pictures(root / "bounding_box_test", [*gallery, "0005_c5s1_000451_04.jpg.jpg"])
    (root / "bounding_box_train" / "._0002_c1s1_000451_03.jpg").write_bytes(b"\0\5\x16\7")
    (root / "bounding_box_train" / "Thumbs.db").write_bytes(b"x")
    (root / "bounding_box_train" / "__MACOSX").mkdir()
    (root / "bounding_box_train" / "__MACOSX" / "0099_c1_1.jpg").write_bytes(b"x")
    return root


def duke(root: Path) -> Path:
    pictures(
        root / "bounding_box_train",
        [f"{pid:04d}_c{cam}_f0046{pid}{cam}2.jpg" for pid in (1, 5) for cam in (2, 8)],
    )
    pictures(root / "query", ["0003_c1_f0046182.jpg"])
    pictures(root / "bounding_box_test", ["0003_c2_f0046302.jpg", "7139_c2_f0046303.jpg"])
    return root


def cuhk_np(root: Path) -> Path:
    pictures(root / "bounding_box_train", [f"{pid:04d}_c{cam}_{cam}.png" for pid in (3, 4) for cam in (1, 2)])
    pictures(root / "query", ["0001_c1_1.png"])
    pictures(root / "bounding_box_test", ["0001_c2_6.png"])
    return root


def cuhk03(root: Path) -> Path:
    names = [f"{pid:04d}_{cam}_{k:04d}.png" for pid in range(5) for cam in range(2) for k in range(2)]
    pictures(root / "images", names)
    identities = [
        [[name for name in names if name.startswith(f"{pid:04d}_{cam}_")] for cam in range(2)]
        for pid in range(5)
    ]
    meta = {"name": "cuhk03", "shot": "multiple", "num_cameras": 2, "identities": identities}
    (root / "meta.json").write_text(json.dumps(meta))
    first = {"trainval": [4, 0, 2], "train": [0, 2], "val": [4], "query": [1, 3], "gallery": [1, 3]}
    second = {"trainval": [1, 3], "train": [1], "val": [3], "query": [0, 2], "gallery": [0, 2, 4]}
    (root / "splits.json").write_text(json.dumps([first, second]))
    return root


MSMT_LISTS = {
    "list_train.txt": ["0000/0000_000_01_0303morning_0008_0.jpg 0", "0001/0001_002_14_0303noon_0021_1.jpg 1"],
    "list_val.txt": ["0001/0001_003_15_0303noon_0023_1.jpg 1", "0000/0000_001_09_0303morning_0008_0.jpg 0"],
    "list_query.txt": ["0000/0000_000_05_0303morning_0020_0.jpg 0"],
    "list_gallery.txt": [
        "0000/0000_001_12_0303morning_0022_0.jpg 0",
        "0003/0003_001_12_0303morning_0022_0.jpg 3",
    ],
}


def msmt(root: Path, train: str = "train", test: str = "test") -> Path:
    for list_name, lines in MSMT_LISTS.items():
        folder = root / (train if list_name in ("list_train.txt", "list_val.txt") else test)
        pictures(folder, [line.split()[0] for line in lines])
        (root / list_name).write_text("\n".join(lines) + "\n")
    (root / train / "0000" / "._0000_000_01_0303morning_0008_0.jpg").write_bytes(b"x")
    return root


def msmt_market_style(root: Path) -> Path:
    pictures(
        root / "bounding_box_train", [f"000{pid}_c{cam}_000{pid}.jpg" for pid in (0, 1) for cam in (1, 15)]
    )
    pictures(root / "query", ["0000_c14_0003.jpg"])
    pictures(root / "bounding_box_test", ["0000_c4_0004.jpg"])
    return root
