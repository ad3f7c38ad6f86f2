from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crossreid.datasets import DatasetError, Splits, load
from crossreid.datasets.camstyle_copies import FOLDERS, attach
from crossreid.datasets.images import ImageDataset
from crossreid.datasets.samplers import ShuffledSampler, StyledSampler
from tests.datasets import trees


def market_with(root: Path, kind: str) -> Splits:
    """Market-style tree of cameras 1 and 3 with a copy of each image in the other camera."""
    trees.market(root / "market")
    splits = load("market", root)
    for seed, path in enumerate(splits.train.paths):
        camera = 1 if "_c1" in path else 3
        copy = f"{Path(path).stem}_fake_{camera}to{4 - camera}.jpg"
        trees.picture(root / "market" / FOLDERS[kind] / copy, 100 + seed)
    return splits


@pytest.mark.parametrize("kind", ["cyclegan", "stargan", "plain"])
def test_copies_go_with_their_images(tmp_path: Path, kind: str) -> None:
    splits = market_with(tmp_path, kind)
    styled = attach(splits, kind)
    assert len(styled) == 16
    assert styled.slots.tolist() == list(range(16))
    assert (styled.cams == 4 - splits.train.cams).all()
    for path, slot in zip(styled.paths, styled.slots):
        assert Path(path).name.startswith(Path(splits.train.paths[slot]).stem)
    other = "plain" if kind != "plain" else "stargan"
    with pytest.raises(DatasetError, match=f"{FOLDERS[other]}; there is .*: set INPUT.CAMSTYLE {kind}$"):
        attach(splits, other)
    (tmp_path / "market" / FOLDERS[kind]).rename(tmp_path / "away")
    with pytest.raises(DatasetError, match=f"no folder .*{FOLDERS[other]}; set INPUT.CAMSTYLE statistics"):
        attach(splits, other)


def test_msmt_names_have_no_source_camera(tmp_path: Path) -> None:
    root = trees.msmt(tmp_path / "MSMT17_V1")
    splits = load("msmt", tmp_path)
    trees.pictures(
        root / "bounding_box_train_camstyle",
        [f"{Path(path).stem}_fake_{cam}.jpg" for path in splits.train.paths for cam in (1, 9, 14, 15)],
    )
    styled = attach(splits, "plain")
    assert styled.slots.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert styled.cams.tolist() == [1, 9, 14, 15] * 4


def test_dataset_and_sampler_keep_the_memory_slot(tmp_path: Path) -> None:
    splits = market_with(tmp_path, "plain")
    dataset = ImageDataset(
        splits.train, (16, 8), cache_dir=tmp_path / "cache", styled=attach(splits, "plain")
    )
    assert len(dataset) == 16
    np.testing.assert_array_equal(dataset.choices, np.stack([np.arange(16), np.arange(16, 32)], 1))
    batch = dataset.gather([3, 19])
    assert batch.index.tolist() == [3, 3]
    assert batch.cams.tolist() == [splits.train.cams[3]] * 2
    assert not (batch.images[0] == batch.images[1]).all()
    for rows in StyledSampler(ShuffledSampler(16, 8), dataset.choices).epoch(0):
        assert len(set(dataset.gather(rows).index.tolist())) == 8


def test_corrupt_copy_or_image_is_left_out(tmp_path: Path) -> None:
    splits = market_with(tmp_path, "plain")
    styled = attach(splits, "plain")
    Path(styled.paths[5]).write_bytes(b"x")
    Path(splits.train.paths[2]).write_bytes(b"x")
    dataset = ImageDataset(
        splits.train, (16, 8), cache_dir=tmp_path / "cache", styled=styled, on_corrupt="skip"
    )
    assert len(dataset.skipped) == 2
    assert len(dataset) == 15
    assert dataset.choices.shape == (15, 2)
    assert dataset.choices[4].tolist() == [4, 4]  # image 5 before: its copy is gone
    for slot, (own, copy) in enumerate(dataset.choices):
        assert own == slot
        assert dataset.gather([copy]).index.tolist() == [slot]


def test_what_does_not_belong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    splits = market_with(tmp_path, "plain")
    folder = tmp_path / "market" / FOLDERS["plain"]
    trees.picture(folder / "9999_c1s1_000001_01_fake_1to2.jpg")
    assert len(attach(splits, "plain")) == 16
    assert "16 copies of training images, 1 of others; expected images x (cameras - 1) = 16" in caplog.text
    trees.picture(folder / "0002_c1s1_002151_01_fake_3to2.jpg")
    with pytest.raises(DatasetError, match="made from camera 3, but its image is of camera 1"):
        attach(splits, "plain")
    trees.picture(folder / "0002_c1s1_000151_01.jpg")
    with pytest.raises(DatasetError, match=r"0002_c1s1_000151_01.jpg: the file name is neither"):
        attach(splits, "plain")
    with pytest.raises(DatasetError, match="CAMSTYLE 'gan' is not one of cyclegan, stargan, plain"):
        attach(splits, "gan")
