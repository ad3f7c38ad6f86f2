from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from crossreid.datasets import DatasetError, Split, cache, pool, store
from crossreid.datasets.decode import decode
from crossreid.datasets.images import ImageDataset
from tests.datasets import trees

SIZE = (48, 24)
ROOT = Path(__file__).parents[2]


def make_split(folder: Path, count: int = 6, size: tuple[int, int] = (64, 32)) -> Split:
    paths = [folder / f"{k:04d}_c1_{k}.jpg" for k in range(count)]
    for seed, path in enumerate(paths):
        trees.picture(path, seed, size)
    rows = np.arange(count)
    return Split(tuple(map(str, paths)), rows % 3, rows % 2 + 1, "own/train", relabelled=True)


def everything(dataset: ImageDataset) -> np.ndarray:
    return dataset.gather(np.arange(len(dataset))).images.numpy().copy()


def stores(folder: Path) -> list[Path]:
    """What lies in a folder of stores, beside the lock."""
    return sorted(path for path in folder.iterdir() if path.name != ".lock")


def usual(path: str | Path, size: tuple[int, int] = SIZE) -> np.ndarray:
    """torchvision's way: PIL, RGB, Resize."""
    with Image.open(path) as image:
        return np.asarray(transforms.Resize(size)(image.convert("RGB"))).transpose(2, 0, 1)


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


BUILD = """
import sys, numpy as np
from crossreid.datasets import Split
from crossreid.datasets.images import ImageDataset
import crossreid.datasets.store
crossreid.datasets.store.FEW = 1
paths = tuple(open(sys.argv[1]).read().split())
rows = np.arange(len(paths))
dataset = ImageDataset(Split(paths, rows, rows, "own"), (256, 128), cache=sys.argv[3], cache_dir=sys.argv[2], workers=2)
print(dataset.mode, int(dataset.gather(rows).images.sum()))
"""


def start(paths: tuple[str, ...], folder: Path, mode: str = "disk", limit: str = "") -> subprocess.Popen[str]:
    table = folder.parent / "paths.txt"
    table.write_text("\n".join(paths))
    command = [sys.executable, "-c", BUILD, str(table), str(folder), mode]
    if limit:
        command = ["bash", "-c", f'{limit}; exec "$@"', "bash", *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_killed_build_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    split = make_split(tmp_path / "images", 40)
    folder = tmp_path / "cache"
    process = start(split.paths * 400, folder)  # some seconds of work
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.tmp")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1)
    workers = children(process.pid)
    assert process.poll() is None
    assert len(workers) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(folder.glob("*.u8"))
    second = start(split.paths, folder)  # is not kept waiting by the dead one or its workers
    assert second.communicate(timeout=60)[0].startswith("disk")
    assert [path.suffix for path in stores(folder)] == [".u8"]
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, workers))


def test_drafts_of_killed_builds_are_removed(tmp_path: Path) -> None:
    split = make_split(tmp_path / "images")
    good = everything(ImageDataset(split, SIZE, cache_dir=tmp_path / "cache"))
    (path,) = stores(tmp_path / "cache")
    path.with_name(f"{path.name}.123.tmp").write_bytes(b"x")
    path.write_bytes(b"damaged")
    assert (everything(ImageDataset(split, SIZE, cache_dir=tmp_path / "cache")) == good).all()
    assert stores(tmp_path / "cache") == [path]


def test_one_builds_while_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_split(tmp_path / "images")
    build, built = store._build, []

    def slow_build(*arguments: Any) -> None:
        built.append(threading.get_ident())
        time.sleep(0.3)  # long enough for the others to come
        build(*arguments)

    monkeypatch.setattr(store, "_build", slow_build)
    with ThreadPoolExecutor(3) as pool:  # the lock belongs to an open folder, not to a process
        opened = pool.map(
            lambda _: everything(ImageDataset(split, SIZE, cache_dir=tmp_path / "cache")), range(3)
        )
        first, *others = opened
    assert len(built) == 1
    assert all((first == other).all() for other in others)


def test_two_processes_build_once_and_share(tmp_path: Path) -> None:
    split = make_split(tmp_path / "images", 40)
    processes = [start(split.paths * 10, tmp_path / "cache") for _ in range(2)]
    outputs = [process.communicate(timeout=90) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert len(stores(tmp_path / "cache")) == 1


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


def test_large_stores_are_sampled_at_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_split(tmp_path / "images")
    everything(ImageDataset(split, SIZE, cache_dir=tmp_path / "cache"))
    (path,) = stores(tmp_path / "cache")
    row_bytes = 3 * SIZE[0] * SIZE[1]
    _, key, _ = store.content_keys(split.paths, (*SIZE, "bilinear"))
    with path.open("r+b") as file:
        file.seek(4 * row_bytes)
        file.write(b"damage")
    monkeypatch.setattr(store, "CHECKED_BYTES", 3 * row_bytes)
    found = [store.open_store(path, key, 6, row_bytes) for _ in range(60)]
    noticed = found.count("is damaged")
    assert 10 < noticed < 50  # half of the rows at each opening, others each time
    assert store.open_store(path, key, 6, row_bytes, every_row=True) == "is damaged"  # after building


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
    [b"[1, 2]", b"null", b"[" * 100_000, '{"key": KEY}', '{"key": KEY, "corrupt": 5}',
     '{"key": KEY, "corrupt": "abc"}', '{"key": KEY, "corrupt": [[1000, "x"]]}',
     '{"key": KEY, "corrupt": [[-1, "x"]]}'],
)  # fmt: skip
def test_a_description_of_another_kind(tmp_path: Path, about: bytes | str) -> None:
    split = make_split(tmp_path / "images")
    good = everything(ImageDataset(split, SIZE, cache_dir=tmp_path / "cache"))
    (path,) = stores(tmp_path / "cache")
    _, key, _ = store.content_keys(split.paths, (*SIZE, "bilinear"))
    text = about.replace("KEY", f'"{key}"').encode() if isinstance(about, str) else about
    footer = store.FOOTER.pack(store.MAGIC, len(text), zlib.crc32(text))
    path.write_bytes(path.read_bytes()[: 6 * (good[0].size + 4)] + text + footer)
    assert isinstance(store.open_store(path, key, 6, good[0].size), str)
    assert (everything(ImageDataset(split, SIZE, cache_dir=tmp_path / "cache")) == good).all()


def test_workers_write_what_one_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_split(tmp_path / "images", 9)
    Path(split.paths[4]).write_bytes(Path(split.paths[4]).read_bytes()[:200])
    options = {"on_corrupt": "skip", "workers": 3}
    alone = ImageDataset(split, SIZE, cache_dir=tmp_path / "one", **options)
    monkeypatch.setattr("crossreid.datasets.store.FEW", 1)
    together = ImageDataset(split, SIZE, cache_dir=tmp_path / "three", **options)
    assert stores(tmp_path / "one")[0].read_bytes() == stores(tmp_path / "three")[0].read_bytes()
    assert alone.skipped == together.skipped
    assert len(alone) == 8


def test_a_killed_worker_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    split = make_split(tmp_path / "images")
    monkeypatch.setattr(store, "run", lambda *_: pool.run(os._exit, [9, 9], 2))
    assert ImageDataset(split, SIZE, cache="disk", cache_dir=tmp_path / "cache").mode == "off"
    assert [
        record.message.partition("(")[2] for record in caplog.records if record.levelname == "WARNING"
    ] == [
        f"{tmp_path / 'cache'}: a worker process was killed (out of memory?)); "
        "images are decoded while training, slower"
    ]
    assert stores(tmp_path / "cache") == []


def test_workers_do_not_run_the_caller_s_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "print('once')\nfrom crossreid.datasets.pool import run\nprint(list(run(abs, [-1, -2, 3], 2)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n") == ["once", "[1, 2, 3]", ""]


def test_errors_of_workers_arrive_as_they_are() -> None:
    with pytest.raises(ValueError, match="invalid literal for int"):
        list(pool.run(int, ["1", "x", "3"], 2))


def test_full_disk_is_one_line_and_streaming(tmp_path: Path) -> None:
    split = make_split(tmp_path / "images")
    process = start(split.paths, tmp_path / "cache", "disk", "ulimit -f 100")  # no file over 100 KiB
    output, errors = process.communicate(timeout=60)
    assert output.startswith("off"), errors
    lines = [line for line in errors.splitlines() if line]
    assert len(lines) == 1
    assert "own: no image store" in lines[0]
    assert "File too large" in lines[0]
    assert stores(tmp_path / "cache") == []
    with_store = start(split.paths, tmp_path / "other").communicate(timeout=60)[0]
    assert with_store.split()[1] == output.split()[1]  # the same pixels


def test_auto_goes_from_disk_to_memory_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    split = make_split(tmp_path / "images")
    assert ImageDataset(split, SIZE, cache_dir=tmp_path / "a").mode == "disk"
    monkeypatch.setattr(cache, "SPARE_DISK", 1 << 60)
    assert ImageDataset(split, SIZE, cache_dir=tmp_path / "b").mode == "ram"
    assert len(caplog.records) == 1
    assert "0.0 MB to spare" in caplog.records[0].message
    monkeypatch.setattr(cache, "available_memory", lambda: 100)
    caplog.clear()
    assert ImageDataset(split, SIZE, cache_dir=tmp_path / "c").mode == "off"
    assert len(caplog.records) == 1
    assert ImageDataset(split, SIZE, cache_dir=tmp_path / "a").mode == "disk"  # what is there needs no room


def test_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    split = make_split(tmp_path / "images")
    (tmp_path / "file").write_text("")
    assert ImageDataset(split, SIZE, cache="disk", cache_dir=tmp_path / "file" / "cache").mode == "off"
    assert "Not a directory" in caplog.text


def test_memory_store_goes_with_its_last_user(tmp_path: Path) -> None:
    split = make_split(tmp_path / "images")
    folder = cache.shared_folder()
    assert folder is not None
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
    assert folder is not None
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
