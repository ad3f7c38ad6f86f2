"""The data path against the usual one: PIL + torchvision ``Compose`` + ``DataLoader``. Ratios of one run.

python benchmarks/data.py [--images 12936] [--batch 256] [--folder /tmp/reid-bench]

Images are 128x64 JPEG files of a built-in domain (drawn once, then copied to the number asked for), resized to
256x128 with flip, pad-10 crop, erasing and normalising. Every way runs over all images in random order after one
unmeasured run over some of them, three times; the best counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as tv

from crossreid.datasets import Split, load
from crossreid.datasets.images import ImageDataset
from crossreid.datasets.samplers import ShuffledSampler
from crossreid.datasets.streams import Streams
from crossreid.datasets.transforms import (
    Compose,
    Flip,
    Normalize,
    PadCrop,
    RandomErasing,
    iteration_generator,
)

SIZE = (256, 128)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Usual(Dataset[tuple[torch.Tensor, int]]):
    """One image at a time, as the field's frameworks do it."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self.paths = paths
        crop = tv.RandomCrop(SIZE, padding=10, fill=127)
        steps = [tv.Resize(SIZE), tv.RandomHorizontalFlip(), crop, tv.ToTensor(), tv.Normalize(MEAN, STD)]
        self.transform = tv.Compose([*steps, tv.RandomErasing(0.5, (0.02, 0.25))])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.paths[row]) as image:
            return self.transform(image.convert("RGB")), row


def make_images(folder: Path, count: int) -> Split:
    """``count`` JPEG files of 128x64: a built-in domain, and copies of it."""
    drawn = load("synthetic:summer", folder).train.paths
    target = folder / f"copies-{count}"
    target.mkdir(exist_ok=True)
    paths = tuple(str(target / f"{row:06d}.jpg") for row in range(count))
    for row, path in enumerate(paths):
        if not Path(path).exists():
            shutil.copyfile(drawn[row % len(drawn)], path)
    rows = np.arange(count)
    return Split(paths, rows, rows % 6, "bench/train")


def rate(run: Callable[[], Iterable[int]], repeats: int = 3) -> float:
    """Images a second of the best run; ``run`` yields the size of each batch when it is ready."""
    best = 0.0
    for _ in range(repeats):
        start, count = time.perf_counter(), 0
        for size in run():
            count += size
        best = max(best, count / (time.perf_counter() - start))
    return best


def usual_way(split: Split, batch: int, workers: int, device: str) -> float:
    loader = DataLoader(
        Usual(split.paths),
        batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
        pin_memory=device == "cuda",
    )

    def run() -> Iterable[int]:
        for images, _ in loader:
            yield len(images.to(device, non_blocking=True))

    next(iter(run()))
    return rate(run)


def gathered(dataset: ImageDataset, batch: int) -> float:
    sampler = ShuffledSampler(len(dataset), batch)

    def run() -> Iterable[int]:
        for rows in sampler.epoch(0):
            yield len(dataset.gather(rows))

    sum(run())
    return rate(run)


def copied(dataset: ImageDataset, batch: int) -> float:
    """Plain copies of as many bytes as the batches have, one after the other, into one block."""
    source = dataset.gather(np.arange(len(dataset))).images.numpy().copy()
    target = np.empty((batch, *source.shape[1:]), np.uint8)

    def run() -> Iterable[int]:
        for start in range(0, len(source) - batch + 1, batch):
            np.copyto(target, source[start : start + batch])
            yield batch

    sum(run())
    return rate(run)


def whole_path(dataset: ImageDataset, batch: int, device: str) -> float:
    """Sampler, store, background thread, device, transforms."""
    normalize = Normalize(MEAN, STD)
    chain = Compose([Flip(), PadCrop(10), normalize, RandomErasing(0.5)])

    sources = {"train": (dataset, ShuffledSampler(len(dataset), batch))}
    with Streams(sources, pin_memory=device == "cuda") as streams:

        def run() -> Iterable[int]:
            for _ in range(len(streams)):
                iteration = streams.iteration
                images = next(streams)["train"].to(device, non_blocking=True).images
                yield len(chain(images, iteration_generator(device, 0, 0, iteration)))
            if device == "cuda":
                torch.cuda.synchronize()

        sum(run())
        return rate(run)


SECOND_RANK = """
import sys
import numpy as np
from crossreid.datasets import Split
from crossreid.datasets.images import ImageDataset

def private():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) / 1024

paths = tuple(open(sys.argv[1]).read().split("\\n"))
rows = np.arange(len(paths))
ImageDataset(Split(paths[:1], rows[:1], rows[:1], "one"), (8, 8), cache="off").gather([0])  # imports, first use
before = private()
dataset = ImageDataset(Split(paths, rows, rows % 6, "bench/train"), (256, 128), cache="disk", cache_dir=sys.argv[2])
for start in range(0, len(rows), 256):
    dataset.gather(rows[start : start + 256])
print(private() - before)
"""


def second_rank(split: Split, cache: Path) -> float:
    """Memory in MB that is its own after another process opened the same store and read all of it."""
    table = cache / "paths.txt"
    table.write_text("\n".join(split.paths))
    command = [sys.executable, "-c", SECOND_RANK, str(table), str(cache)]
    root = str(Path(__file__).resolve().parent.parent)
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}, check=True
    )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the data path against the usual one.")
    parser.add_argument("--images", type=int, default=12_936)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2, help="of the usual way, and of building the store")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "reid-bench")
    arguments = parser.parse_args()
    batch, workers = arguments.batch, arguments.workers
    torch.set_num_threads(workers)
    split = make_images(arguments.folder, arguments.images)
    cache = arguments.folder / "store"
    shutil.rmtree(cache, ignore_errors=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(
        f"{len(split):,} images, batch {batch}, {workers} workers, torch {torch.__version__}, {device}",
        flush=True,
    )

    start = time.perf_counter()
    dataset = ImageDataset(split, SIZE, cache="disk", cache_dir=cache, workers=workers)
    built = time.perf_counter() - start
    start = time.perf_counter()
    ImageDataset(split, SIZE, cache="disk", cache_dir=cache)
    opened = time.perf_counter() - start
    size = sum(path.stat().st_size for path in cache.iterdir()) / 1e9
    print(
        f"store: built in {built:.1f} s ({len(split) / built:,.0f} images/s), {size:.2f} GB; opened in {opened:.2f} s"
    )
    print(f"second process on the same store adds {second_rank(split, cache):.1f} MB", flush=True)

    usual = usual_way(split, batch, workers, "cpu")
    print(f"usual way, CPU: {usual:,.0f} images/s", flush=True)
    ready, plain = gathered(dataset, batch), copied(dataset, batch)
    print(
        f"uint8 batches: {ready:,.0f} images/s = {ready / usual:.1f} x usual; "
        f"{ready / plain:.0%} of a plain copy at {plain:,.0f}"
    )
    whole = whole_path(dataset, batch, "cpu")
    print(f"whole path, CPU: {whole:,.0f} images/s = {whole / usual:.1f} x usual", flush=True)
    if device == "cuda":
        usual = usual_way(split, batch, os.cpu_count() or 1, "cuda")
        whole = whole_path(dataset, batch, "cuda")
        print(
            f"GPU: usual way, {os.cpu_count()} workers: {usual:,.0f} images/s; "
            f"whole path {whole:,.0f} = {whole / usual:.1f} x usual"
        )
    else:
        print("GPU: not measured, there is none")


if __name__ == "__main__":
    main()
