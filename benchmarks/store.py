"""The image store of this checkout beside an older one's: building, opening, gathering, memory. Ratios of one run.

python benchmarks/store.py OLDER_CHECKOUT [--images 12936] [--rounds 5] [--folder /tmp/reid-bench]

Each checkout runs in processes of its own, in turns; the best rounds are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.data import make_images

ROOT = Path(__file__).resolve().parent.parent

ONCE = """
import glob, importlib, json, shutil, sys, time
import numpy as np
package, folder, cache, role = sys.argv[1:5]
images = importlib.import_module(package + "datasets.images")
split_of = importlib.import_module(package + "datasets").Split
paths = tuple(sorted(glob.glob(folder + "/*.jpg")))
rows = np.arange(len(paths))
split = split_of(paths, rows, rows % 6, "bench/train")

def private():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024

def opened():
    start = time.perf_counter()
    dataset = images.ImageDataset(split, (256, 128), cache="disk", cache_dir=cache, workers=2, progress=False)
    return dataset, time.perf_counter() - start

def gathered(dataset):
    order, start = np.random.default_rng(0).permutation(len(paths)), time.perf_counter()
    for first in range(0, len(order), 256):
        dataset.gather(order[first : first + 256])
    return len(paths) / (time.perf_counter() - start)

images.ImageDataset(split.take(rows[:1]), (8, 8), cache="off").gather([0])  # imports, first use
before = private()
dataset, seconds = opened()
rate = max(gathered(dataset) for _ in range(3))
result = {"MB of its own": private() - before} if role == "second" else {"built s": seconds, "gathered images/s": rate}
if role == "first":
    result["opened s"] = opened()[1]
print(json.dumps(result))
"""


def once(checkout: Path, images: Path, cache: Path) -> dict[str, float]:
    """One round of one checkout: build, open, gather; then a second process on the same store."""
    package = "crossreid." if (checkout / "crossreid").is_dir() else ""
    shutil.rmtree(cache, ignore_errors=True)
    found: dict[str, float] = {}
    for role in ("first", "second"):
        command = [sys.executable, "-c", ONCE, package, str(images), str(cache), role]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        done = subprocess.run(
            command, env=environment, cwd=checkout, capture_output=True, text=True, check=True
        )
        found |= json.loads(done.stdout)
    shutil.rmtree(cache)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the image stores of two checkouts.")
    parser.add_argument("older", type=Path)
    parser.add_argument("--images", type=int, default=12_936)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "reid-bench")
    arguments = parser.parse_args()
    images = Path(make_images(arguments.folder, arguments.images).paths[0]).parent
    rounds = [
        [
            once(checkout.resolve(), images, arguments.folder / "compared")
            for checkout in (arguments.older, ROOT)
        ]
        for _ in range(arguments.rounds)
    ]
    for name in rounds[0][0]:
        best = max if name.endswith("images/s") else min
        older, newer = (best(row[side][name] for row in rounds) for side in (0, 1))
        print(f"{name}: {older:,.2f} before, {newer:,.2f} now; {newer / older:.2f} x")


if __name__ == "__main__":
    main()
