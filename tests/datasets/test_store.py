"""The image store: pixels, reuse, modes, corrupt images."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossreid.datasets import DatasetError, Split, cache
from crossreid.datasets.decode import decode
from crossreid.datasets.images import ImageDataset
from tests.datasets import trees
from tests.datasets.stores import SIZE, everything, make_split, stores, usual


@pytest.mark.parametrize("mode", ["disk", "ram", "off"])
@pytest.mark.parametrize("taken", [(64, 32), (100, 37), (20, 90), SIZE])
def test_pixels_are_those_of_the_usual_way(tmp_path: Path, mode: str, taken: tuple[int, int]) -> None:
    split = make_split(tmp_path / "images", size=taken)
    dataset = ImageDataset(split, SIZE, cache=mode, cache_dir=tmp_path / "cache")
    assert dataset.mode == mode
    expected = np.stack([usual(path) for path in split.paths]).astype(int)
    assert np.abs(everything(dataset).astype(int) - expected).max() <= 1


def test_batches_are_whole(tmp_path: Path) -> None:
    dataset = ImageDataset(make_split(tmp_path), SIZE, cache_dir=tmp_path / "cache")
    batch = dataset.__getitems__([4, 0, 4])
    assert batch.images.shape == (3, 3, *SIZE)
    assert batch.index.tolist() == [4, 0, 4]
    assert batch.pids.tolist() == [1, 0, 1]
    assert batch.cams.tolist() == [1, 1, 1]
    assert (batch.images[0] == batch.images[2]).all()
    assert dataset[2].images.shape == (1, 3, *SIZE)
    with pytest.raises(IndexError, match=r"rows 0..6 of a dataset of 6 rows"):
        dataset.__getitems__([0, 6])


def test_recycled_memory_never_changes_a_batch_in_use(tmp_path: Path) -> None:
    dataset = ImageDataset(make_split(tmp_path), SIZE, cache_dir=tmp_path / "cache")
    kept = [dataset.gather([k % 6, (k + 1) % 6]).images[1:] for k in range(30)]  # views keep the block alive
    for k, images in enumerate(kept):
        assert (images[0].numpy() == everything(dataset)[(k + 1) % 6]).all()


def test_store_is_built_once_and_reused(tmp_path: Path) -> None:
    split = make_split(tmp_path / "images")
    first = ImageDataset(split, SIZE, cache_dir=tmp_path / "cache")
    (path,) = stores(tmp_path / "cache")
    before = path.stat()
    again = ImageDataset(split, SIZE, cache_dir=tmp_path / "cache")
    assert path.stat() == before
    assert (everything(first) == everything(again)).all()
    ImageDataset(split, (24, 12), cache_dir=tmp_path / "cache")
    assert len(stores(tmp_path / "cache")) == 2


def test_stale_store_is_replaced(tmp_path: Path) -> None:
    split = make_split(tmp_path / "images")
    old = everything(ImageDataset(split, SIZE, cache_dir=tmp_path / "cache"))
    trees.picture(Path(split.paths[2]), 99)
    new = everything(ImageDataset(split, SIZE, cache_dir=tmp_path / "cache"))
    assert (old != new).any(axis=(1, 2, 3)).tolist() == [False, False, True, False, False, False]
    assert len(stores(tmp_path / "cache")) == 1


@pytest.mark.parametrize(
    "damage", ["first byte", "last image", "checksum", "footer", "truncated", "empty", "text"]
)
def test_damaged_store_is_rebuilt(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    split = make_split(tmp_path / "images")
    good = everything(ImageDataset(split, SIZE, cache_dir=tmp_path / "cache"))
    (path,) = stores(tmp_path / "cache")
    content = bytearray(path.read_bytes())
    position = {
        "first byte": 0,
        "last image": good.nbytes - 1,
        "checksum": good.nbytes + 3,
        "footer": -1,
    }.get(damage)
    if position is not None:
        content[position] ^= 1
    content = {"truncated": content[:-100], "empty": bytearray(), "text": bytearray(b"not a store")}.get(
        damage, content
    )
    path.write_bytes(content)
    with caplog.at_level(logging.INFO):
        assert (everything(ImageDataset(split, SIZE, cache_dir=tmp_path / "cache")) == good).all()
    assert any("building it again" in record.message for record in caplog.records)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def test_auto_goes_from_disk_to_memory_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    split = make_split(tmp_path / "images")
    assert ImageDataset(split, SIZE, cache_dir=tmp_path / "a").mode == "disk"
    monkeypatch.setattr(cache, "SPARE_DISK", 1 << 60)
    assert ImageDataset(split, SIZE, cache_dir=tmp_path / "b").mode == "ram"
    (warning,) = warnings(caplog)
    assert "0.0 MB to spare" in warning
    monkeypatch.setattr(cache, "available_memory", lambda: 100)
    caplog.clear()
    assert ImageDataset(split, SIZE, cache_dir=tmp_path / "c").mode == "off"
    assert len(warnings(caplog)) == 1
    assert ImageDataset(split, SIZE, cache_dir=tmp_path / "a").mode == "disk"  # what is there needs no room


def test_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    split = make_split(tmp_path / "images")
    (tmp_path / "file").write_text("")
    assert ImageDataset(split, SIZE, cache="disk", cache_dir=tmp_path / "file" / "cache").mode == "off"
    assert "Not a directory" in caplog.text


def test_memory_store_goes_with_its_last_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARED_MEMORY", tmp_path)  # other tests use the machine's at the same time
    split = make_split(tmp_path / "images")
    folder = cache.shared_folder()
    before = stores(folder)
    first = ImageDataset(split, SIZE, cache="ram")
    second = ImageDataset(split, SIZE, cache="ram")
    assert len(stores(folder)) == len(before) + 1
    del first
    assert len(stores(folder)) == len(before) + 1
    assert len(second[0].images) == 1
    del second
    assert stores(folder) == before


def test_memory_left_by_a_killed_process_is_swept(tmp_path: Path) -> None:
    folder = cache.shared_folder()
    left = folder / "left.u8"
    left.write_bytes(b"x")
    cache.sweep_unused(folder)
    assert left.exists()  # too young: its process may be about to hold it
    os.utime(left, (1, 1))
    cache.sweep_unused(folder)
    assert not left.exists()


def test_a_dataset_travels_to_workers_without_its_pixels(tmp_path: Path) -> None:
    dataset = ImageDataset(make_split(tmp_path / "images"), (256, 128), cache_dir=tmp_path / "cache")
    packed = pickle.dumps(dataset)
    assert len(packed) < 10_000
    assert (everything(pickle.loads(packed)) == everything(dataset)).all()


@pytest.mark.parametrize("mode", ["disk", "off"])
def test_corrupt_image_is_named_or_skipped(
    tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    split = make_split(tmp_path / "images", 7)
    bad = Path(split.paths[3])  # the second of the three images of identity 0
    bad.write_bytes(bad.read_bytes()[:300])
    arguments = {"cache": mode, "cache_dir": tmp_path / "cache"}
    for _ in range(2):  # when the store is built, and when it is there already
        with pytest.raises(DatasetError, match=f"{bad}.*: does not decode .*ON_CORRUPT skip"):
            everything(ImageDataset(split, SIZE, **arguments))
    dataset = ImageDataset(split, SIZE, on_corrupt="skip", **arguments)
    assert [path for path, _ in dataset.skipped] == [str(bad)]
    assert f"own/train: skipped 1 images that do not decode: {bad}" in caplog.text
    assert len(dataset) == len(dataset.split) == 6
    assert dataset.split.paths == split.paths[:3] + split.paths[4:]
    expected = np.stack([usual(path) for path in dataset.split.paths])
    assert (everything(dataset) == expected).all()
    assert dataset.gather([3]).index.tolist() == [3]
    assert dataset.gather([3]).pids.tolist() == [1]


def test_skipping_a_whole_identity_keeps_labels_contiguous(tmp_path: Path) -> None:
    split = make_split(tmp_path / "images", 3)
    Path(split.paths[1]).write_bytes(b"no image at all")
    dataset = ImageDataset(split, SIZE, on_corrupt="skip", cache_dir=tmp_path / "cache")
    assert dataset.split.pids.tolist() == [0, 1]
    with pytest.raises(DatasetError, match="none of 1 images decodes"):
        ImageDataset(split.take(np.array([1])), SIZE, on_corrupt="skip", cache_dir=tmp_path / "cache")
    raw = Split(split.paths, split.pids + 5, split.cams, "own/query")
    assert ImageDataset(raw, SIZE, on_corrupt="skip", cache_dir=tmp_path / "cache").split.pids.tolist() == [
        5,
        7,
    ]


@pytest.mark.parametrize("mode", ["disk", "off"])
def test_interpolation_is_part_of_the_store(tmp_path: Path, mode: str) -> None:
    split = make_split(tmp_path / "images")
    shown = {}
    for name, resample in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        dataset = ImageDataset(split, SIZE, interpolation=name, cache=mode, cache_dir=tmp_path / "cache")
        shown[name] = everything(dataset)
        for path, pixels in zip(split.paths, shown[name]):
            with Image.open(path) as image:
                expected = np.asarray(image.resize(SIZE[::-1], resample)).transpose(2, 0, 1)
            assert (pixels == expected).all()
    assert (shown["bilinear"] != shown["bicubic"]).any()
    with pytest.raises(DatasetError, match=r"INPUT.INTERPOLATION 'nearest' is not one of bilinear, bicubic"):
        ImageDataset(split, SIZE, interpolation="nearest")


def test_missing_file_and_wrong_arguments(tmp_path: Path) -> None:
    split = make_split(tmp_path / "images", 2)
    with pytest.raises(DatasetError, match=r"DATASETS.CACHE 'yes' is not one of auto, ram, disk, off"):
        ImageDataset(split, SIZE, cache="yes")
    with pytest.raises(DatasetError, match=r"DATASETS.ON_CORRUPT 'no'"):
        ImageDataset(split, SIZE, on_corrupt="no")
    Path(split.paths[1]).unlink()
    with pytest.raises(DatasetError, match=f"{split.paths[1]}: cannot be read"):
        ImageDataset(split, SIZE, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    "kind", ["16 bit", "16 bit tiff", "grey", "grey+alpha", "rgba", "palette", "cmyk", "1 bit"]
)
def test_odd_kinds_of_images(tmp_path: Path, kind: str) -> None:
    ramp = np.tile(np.linspace(0, 255, 24).astype(np.uint8), (48, 1))
    colour = np.stack([ramp, ramp[::-1], 255 - ramp], 2)
    path = tmp_path / {"16 bit tiff": "a.tif", "cmyk": "a.jpg"}.get(kind, "a.png")
    grey = np.repeat(ramp[None], 3, 0)
    if kind.startswith("16 bit"):
        Image.fromarray(ramp.astype(np.uint16) * 257).save(path)
        expected = grey
    elif kind == "1 bit":
        Image.fromarray(ramp).convert("1").save(path)
        expected = usual(path)
    else:
        mode = {"grey": "L", "grey+alpha": "LA", "rgba": "RGBA", "palette": "P", "cmyk": "CMYK"}[kind]
        Image.fromarray(colour).convert(mode).save(path)
        expected = usual(path)
    pixels = decode(str(path), 48, 24)
    assert pixels.shape == (3, 48, 24)
    assert np.abs(pixels.astype(int) - expected).max() <= 1
    assert pixels.std() > 30
