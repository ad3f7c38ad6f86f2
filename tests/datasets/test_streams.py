from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossreid.datasets import Batch, DatasetError, Split
from crossreid.datasets.images import ImageDataset
from crossreid.datasets.raw_crops import RawCrops
from crossreid.datasets.samplers import IdentitySampler, ShuffledSampler, generator
from crossreid.datasets.streams import Streams
from tests.datasets import trees

SIZE = (16, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("streams")
    trees.pictures(root, [f"{k:02d}.png" for k in range(24)])
    return root


def dataset(folder: Path, count: int, cache: str = "disk") -> ImageDataset:
    rows = np.arange(count)
    split = Split(tuple(str(folder / f"{k:02d}.png") for k in rows), rows // 4, rows % 3, "own/train")
    return ImageDataset(split, SIZE, cache=cache, cache_dir=folder / "cache")


def same(a: dict[str, Batch], b: dict[str, Batch]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[name].images, b[name].images) and torch.equal(a[name].index, b[name].index)
        for name in a
    )


def take(streams: Streams, count: int) -> list[dict[str, Batch]]:
    return list(itertools.islice(streams, count))


def test_shorter_stream_is_repeated(folder: Path) -> None:
    long, short = ShuffledSampler(24, 4, seed=1), ShuffledSampler(9, 4, seed=2)
    with Streams({"source": (dataset(folder, 9), short), "target": (dataset(folder, 24), long)}) as streams:
        assert len(streams) == 6
        batches = take(streams, 13)
        assert streams.iteration == 13
        assert streams.epoch == 2
    index = [batch["target"].index.numpy() for batch in batches]
    np.testing.assert_array_equal(index[:6], long.epoch(0))
    np.testing.assert_array_equal(index[6:12], long.epoch(1))
    index = [batch["source"].index.numpy() for batch in batches]
    for epoch in range(6):
        np.testing.assert_array_equal(index[2 * epoch : 2 * epoch + 2], short.epoch(epoch))


@pytest.mark.parametrize("prefetch", [0, 1, 4])
@pytest.mark.parametrize("at", [0, 1, 5, 6, 17])
def test_resumes_at_any_iteration(folder: Path, at: int, prefetch: int) -> None:
    sources = {
        "source": (dataset(folder, 12), IdentitySampler(np.arange(12) // 4, 2, 2, seed=5, num_batches=5)),
        "target": (dataset(folder, 24), ShuffledSampler(24, 4, seed=6)),
    }
    with Streams(sources, prefetch=2) as streams:
        straight = take(streams, 20)
    with Streams(sources, prefetch=prefetch) as streams:
        streams.start(at)
        assert all(same(a, b) for a, b in zip(take(streams, 20 - at), straight[at:], strict=True))
        streams.start(at)  # again, whatever was prepared ahead
        assert same(next(streams), straight[at])


@pytest.mark.parametrize("workers", [0, 2])
def test_without_a_store_the_same_batches(folder: Path, workers: int) -> None:
    sampler = ShuffledSampler(24, 5, seed=3)
    with Streams({"a": (dataset(folder, 24), sampler)}) as streams:
        expected = take(streams, 9)
    with Streams({"a": (dataset(folder, 24, "off"), sampler)}, workers=workers) as streams:
        streams.start(3)
        assert all(same(a, b) for a, b in zip(take(streams, 6), expected[3:], strict=True))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_arrives_in_one_line(tmp_path: Path, workers: int, prefetch: int) -> None:
    trees.pictures(tmp_path, ["00.png", "01.png"])
    (tmp_path / "01.png").write_bytes(b"not a picture")
    before = threading.active_count()
    streams = Streams(
        {"a": (dataset(tmp_path, 2, "off"), ShuffledSampler(2, 2))}, workers=workers, prefetch=prefetch
    )
    with pytest.raises(DatasetError, match=r"01.png: does not decode \(UnidentifiedImageError") as caught:
        next(streams)
    assert "\n" not in str(caught.value)
    until = time.monotonic() + 10  # a queue of the workers' loader ends its thread a moment later
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_any_exception_arrives(folder: Path) -> None:
    class Broken(ShuffledSampler):
        def epoch(self, epoch: int) -> np.ndarray:
            if epoch == 1:
                raise RuntimeError("no second epoch")
            return super().epoch(epoch)

    streams = Streams({"a": (dataset(folder, 8), Broken(8, 4))}, prefetch=8)
    assert len(take(streams, 2)) == 2
    with pytest.raises(RuntimeError, match="no second epoch"):
        next(streams)


def test_thread_stops(folder: Path) -> None:
    before = threading.active_count()
    streams = Streams({"a": (dataset(folder, 8), ShuffledSampler(8, 4))})
    next(streams)
    assert threading.active_count() == before + 1
    streams.close()
    assert threading.active_count() <= before
    forgotten = Streams({"a": (dataset(folder, 8), ShuffledSampler(8, 4))})
    next(forgotten)
    del forgotten
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() <= before


def test_replaced_sampler_counts_from_the_next_batch(folder: Path) -> None:
    first, second = ShuffledSampler(24, 4, seed=1), ShuffledSampler(24, 4, seed=2)
    with Streams({"a": (dataset(folder, 24), first)}, prefetch=4) as streams:
        got = [batch["a"].index.numpy() for batch in take(streams, 6)]
        streams.replace("a", second)
        got += [batch["a"].index.numpy() for batch in take(streams, 6)]
    np.testing.assert_array_equal(got, np.concatenate([first.epoch(0), second.epoch(1)]))


def test_ranks_share_each_batch(folder: Path) -> None:
    images = dataset(folder, 24)
    parts = []
    for rank in range(3):
        with Streams({"a": (images, ShuffledSampler(24, 6, rank=rank, world_size=3))}) as streams:
            parts.append(torch.stack([batch["a"].index for batch in take(streams, 8)]))
    with Streams({"a": (images, ShuffledSampler(24, 6))}) as streams:
        alone = torch.stack([batch["a"].index for batch in take(streams, 8)])
    assert torch.equal(torch.cat(parts, 1), alone)


@pytest.mark.parametrize("workers", [0, 2])
def test_raw_crops(folder: Path, workers: int) -> None:
    """Boxes of the file's own pixels, cut before the resizing; the same from any iteration on, others on each rank."""
    images = dataset(folder, 24)
    crops = {"a": (RawCrops(images, (0.3, 0.8), (1.0, 3.0), seed=3), ShuffledSampler(24, 4, seed=1))}
    with Streams(crops, workers=workers) as streams:
        straight = take(streams, 9)
    with Streams(crops, workers=0, prefetch=0) as streams:
        streams.start(5)
        assert all(same(a, b) for a, b in zip(take(streams, 4), straight[5:], strict=True))
    boxes: list[tuple[int, ...]] = []
    random = generator(3, 7, 0, 3)
    for row in straight[7]["a"].index.tolist():
        with Image.open(images.split.paths[row]) as image:
            boxes.append(crops["a"][0].box(random, *image.size))
            expected = image.convert("RGB").crop(boxes[-1]).resize(SIZE[::-1], Image.Resampling.BILINEAR)
        found = straight[7]["a"].images[len(boxes) - 1].numpy()
        np.testing.assert_array_equal(found, np.asarray(expected).transpose(2, 0, 1))
    assert len(set(boxes)) == 4
    assert torch.equal(
        images.gather([3]).images, dataset(folder, 24, "off").gather([3]).images
    )  # whole, as ever
    other = RawCrops(images, (0.3, 0.8), (1.0, 3.0), seed=3, rank=1).batch([0, 1], 7)
    assert not torch.equal(other.images, crops["a"][0].batch([0, 1], 7).images)


def test_raw_boxes_keep_to_their_ranges() -> None:
    crops, random = RawCrops(None, (0.64, 1.0), (2.0, 3.0)), np.random.default_rng(0)  # type: ignore[arg-type]
    boxes = np.array([crops.box(random, 64, 128) for _ in range(2000)])
    wide, tall = (boxes[:, 2:] - boxes[:, :2]).T
    assert boxes[:, :2].min() == 0
    assert boxes[:, 2].max() == 64
    assert boxes[:, 3].max() == 128
    whole = (wide == 64) & (tall == 128)
    area, aspect = (wide * tall / 8192)[~whole], (tall / wide)[~whole]
    assert 0.61 < area.min() < 0.66
    assert 1.95 < aspect.min() < 2.05
    assert aspect.max() > 2.8
    assert crops.box(random, 300, 20) == (0, 0, 300, 20)  # nothing of that aspect fits


def test_batch_moves_as_a_whole(folder: Path) -> None:
    batch = dataset(folder, 4).gather([1, 3])
    moved = batch.to("meta")
    assert len(moved) == 2
    assert {t.device.type for t in (moved.images, moved.pids, moved.cams, moved.index)} == {"meta"}
    assert batch.images.dtype == torch.uint8
    with pytest.raises(DatasetError, match="at least one dataset"):
        Streams({})
