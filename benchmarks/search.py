"""One pass over a gallery on disk: python benchmarks/search.py [--rows 1000000] [--top 10] [--cpu-time].

Compares ``search.nearest`` with the bare product: the same blocks brought to float32 and multiplied, nothing kept.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from crossreid.engine.deploy.search import BLOCK, nearest


def best(runs: tuple[Callable[[], object], ...], repeats: int, clock: Callable[[], float]) -> list[float]:
    """The shortest time of each in seconds, taken in turns: other work on the machine disturbs all alike."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, own in zip(runs, times):
            start = clock()
            run()
            own.append(clock() - start)
    return [min(own) for own in times]


def bare_product(vectors: np.ndarray, query: np.ndarray) -> None:
    room, wanted = torch.empty(BLOCK, vectors.shape[1]), torch.from_numpy(query)
    for start in range(0, len(vectors), BLOCK):
        part = torch.from_numpy(np.asarray(vectors[start : start + BLOCK]))
        torch.mv(room[: len(part)].copy_(part), wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--cpu-time", action="store_true", help="for a busy machine; use OMP_NUM_THREADS=1")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    query = rng.standard_normal(options.dim).astype(np.float32)
    query /= np.linalg.norm(query)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        shape = (options.rows, options.dim)
        written = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        for start in range(0, options.rows, 65536):
            part = rng.standard_normal((min(65536, options.rows - start), options.dim), np.float32)
            written[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
        written.flush()
        del written
        vectors = np.load(path, mmap_mode="c")
        runs = (lambda: bare_product(vectors, query), lambda: nearest(vectors, query, options.top))
        clock = time.process_time if options.cpu_time else time.perf_counter
        bare, whole = best(runs, options.repeats, clock)
    print(
        f"{options.rows:,} x {options.dim} float16, {torch.get_num_threads()} threads: "
        f"product {bare * 1e3:.0f} ms, search {whole * 1e3:.0f} ms ({whole / bare:.2f})"
    )


if __name__ == "__main__":
    main()
