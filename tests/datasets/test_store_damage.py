"""Stores and images that are damaged, replaced or no files at all, before and while they are used."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossreid.datasets import DatasetError, store
from crossreid.datasets.images import ImageDataset
from tests.datasets.stores import SIZE, everything, make_split, stores, usual


def files_of(paths: tuple[str, ...]) -> tuple[store.ImageFiles, str]:
    files = store.ImageFiles(paths, (*SIZE, "bilinear"), 1, False)
    return files, files.keys()[1]


@pytest.mark.parametrize("mode", ["disk", "ram"])
@pytest.mark.parametrize("change", ["removed", "truncated", "emptied", "zeroed", "replaced"])
def test_store_changed_while_in_use(
    tmp_path: Path, mode: str, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Never a signal (no page of the file is mapped), never other pixels."""
    split = make_split(tmp_path / "images", 70)
    dataset = ImageDataset(split, SIZE, cache=mode, cache_dir=tmp_path / "cache")
    good = everything(dataset)
    path = dataset._store.path  # type: ignore[union-attr]
    assert path.name not in Path("/proc/self/maps").read_text()
    size = path.stat().st_size
    if change in ("removed", "replaced"):
        path.unlink()
    if change in ("truncated", "emptied"):
        os.truncate(path, 1000 if change == "truncated" else 0)
    if change == "zeroed":
        with path.open("r+b") as file:
            file.write(bytes(size))
    if change == "replaced":
        path.write_bytes(b"something else")
    assert (everything(dataset) == good).all()
    told = [record.message for record in caplog.records if "was changed while in use" in record.message]
    assert len(told) == (change not in ("removed", "replaced"))  # those are open until nobody needs them
    assert dataset.mode == mode
    assert (everything(ImageDataset(split, SIZE, cache=mode, cache_dir=tmp_path / "cache")) == good).all()


def test_store_and_images_lost_while_in_use(tmp_path: Path) -> None:
    split = make_split(tmp_path / "images")
    for skip, message in (("error", "cannot be read"), ("skip", "was damaged or removed while in use")):
        dataset = ImageDataset(split, SIZE, cache_dir=tmp_path / skip, on_corrupt=skip)
        Path(split.paths[4]).rename(tmp_path / "away")
        os.truncate(stores(tmp_path / skip)[0], 100)
        with pytest.raises(DatasetError, match=f"{split.paths[4]}.*{message}"):
            dataset.gather([0])
        (tmp_path / "away").rename(split.paths[4])


def test_image_of_the_same_size_and_date_is_noticed(tmp_path: Path) -> None:
    split = make_split(tmp_path / "images", 2)
    for path in split.paths:
        Image.fromarray(np.full((64, 32, 3), 50, np.uint8)).save(path, format="bmp")
    everything(ImageDataset(split, SIZE, cache_dir=tmp_path / "cache"))
    before = Path(split.paths[0]).stat()
    Image.fromarray(np.full((64, 32, 3), 90, np.uint8)).save(split.paths[0], format="bmp")
    os.utime(split.paths[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert Path(split.paths[0]).stat().st_size == before.st_size
    pixels = everything(ImageDataset(split, SIZE, cache_dir=tmp_path / "cache"))
    assert pixels.reshape(2, -1).mean(1).tolist() == [90, 50]


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    split = make_split(tmp_path / "images")
    everything(ImageDataset(split, SIZE, cache_dir=tmp_path / "cache"))
    (path,) = stores(tmp_path / "cache")
    whole, (files, key) = path.read_bytes(), files_of(split.paths)
    store.open_store(path, files, key)
    random, end = np.random.default_rng(0), files.bytes
    places = [*random.integers(end, size=100), *random.integers(end, len(whole), size=300)]
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1 << int(random.integers(8))
        path.write_bytes(content)
        with pytest.raises(OSError, match="damaged"):
            store.open_store(path, files, key)
        path.write_bytes(whole[:place])  # cut off there
        with pytest.raises(OSError, match="damaged"):
            store.open_store(path, files, key)


def test_large_stores_are_sampled_at_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_split(tmp_path / "images")
    everything(ImageDataset(split, SIZE, cache_dir=tmp_path / "cache"))
    (path,) = stores(tmp_path / "cache")
    files, key = files_of(split.paths)
    with path.open("r+b") as file:
        file.seek(4 * files.row_bytes)
        file.write(b"damage")
    monkeypatch.setattr(store, "CHECKED_BYTES", 3 * files.row_bytes)
    noticed = 0
    for _ in range(60):
        try:
            store.open_store(path, files, key)
        except OSError:
            noticed += 1
    assert 10 < noticed < 50  # half of the rows at each opening, others each time
    with pytest.raises(OSError, match="damaged"):  # after building
        store.open_store(path, files, key, every_row=True)


@pytest.mark.parametrize("kind", ["folder", "fifo", "loop"])
def test_something_else_under_the_store_s_name(tmp_path: Path, kind: str) -> None:
    split = make_split(tmp_path / "images")
    good = everything(ImageDataset(split, SIZE, cache="disk", cache_dir=tmp_path / "cache"))
    (path,) = stores(tmp_path / "cache")
    path.unlink()
    {"folder": path.mkdir, "fifo": lambda: os.mkfifo(path), "loop": lambda: path.symlink_to(path)}[kind]()
    dataset = ImageDataset(split, SIZE, cache="disk", cache_dir=tmp_path / "cache")
    assert dataset.mode == ("off" if kind == "folder" else "disk")
    assert (everything(dataset) == good).all()


@pytest.mark.parametrize(
    "about",
    [b"[1, 2]", b"null", b"[" * 100_000, '{"key": KEY}', '{"key": KEY, "images": 5}',
     '{"key": KEY, "images": "abc"}', '{"key": KEY, "images": [[], {}, null, true, 1.5, 1e999]}'],
)  # fmt: skip
def test_a_description_of_another_kind(tmp_path: Path, about: bytes | str) -> None:
    split = make_split(tmp_path / "images")
    good = everything(ImageDataset(split, SIZE, cache_dir=tmp_path / "cache"))
    (path,) = stores(tmp_path / "cache")
    files, key = files_of(split.paths)
    text = about.replace("KEY", f'"{key}"').encode() if isinstance(about, str) else about
    path.write_bytes(path.read_bytes()[: good.nbytes] + text + zlib.crc32(text).to_bytes(4, "little"))
    with pytest.raises(OSError, match=r"description|damaged"):
        store.open_store(path, files, key)
    assert (everything(ImageDataset(split, SIZE, cache_dir=tmp_path / "cache")) == good).all()


STRANGE = {
    "broken link": lambda path: path.symlink_to("/nonexistent"),
    "link to itself": lambda path: path.symlink_to(path),
    "folder": lambda path: path.mkdir(),
    "fifo": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "removed": lambda path: None,
    "empty": lambda path: path.touch(),
}


@pytest.mark.parametrize("mode", ["disk", "off"])
@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_image_is_named_or_skipped(tmp_path: Path, kind: str, mode: str) -> None:
    split = make_split(tmp_path / "images", 4)
    bad = Path(split.paths[1])
    bad.unlink()
    STRANGE[kind](bad)
    arguments = {"cache": mode, "cache_dir": tmp_path / "cache"}
    with pytest.raises(DatasetError, match=f"{bad}.*ON_CORRUPT skip") as caught:
        everything(ImageDataset(split, SIZE, **arguments))
    assert "\n" not in str(caught.value)
    dataset = ImageDataset(split, SIZE, on_corrupt="skip", **arguments)
    assert [path for path, _ in dataset.skipped] == [str(bad)]
    expected = np.stack([usual(path) for path in dataset.split.paths])
    assert (everything(dataset) == expected).all()
