"""Retrieval and re-ranking: time against the bare matrix product and the usual ways, peak memory, cost against N.

python benchmarks/retrieval.py [market] [msmt] [rerank-market] [rerank-msmt] [cost] [--quick] [--threads 2]

Features are random 2048-d clusters, one a person, L2-normalised. Every case runs in a process of its own, whose
memory is read from Linux; within a case the ways alternate and the median of the ratios is printed. ``cost`` also draws
docs/img/retrieval_cost.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.loglog import draw
from crossreid.engine.evaluation.features import TILES, FeatureMatrix
from crossreid.engine.evaluation.rerank import evaluate_reranked, reranked
from crossreid.engine.evaluation.retrieval import Features, Retrieval, evaluate

ROOT = Path(__file__).resolve().parent.parent
DIM = 2048
SIZES = {  # queries, gallery, people, cameras
    "market": (3368, 15913, 750, 6),
    "msmt": (11659, 82161, 3060, 15),
}
COST = (5_000, 10_000, 20_000, 50_000, 100_000)
QUICK = 16  # sizes are divided by this


def clusters(count: int, people: int, cameras: int, seed: int, noise: float) -> Features:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(people, DIM, generator=torch.Generator().manual_seed(0))
    pids = (torch.arange(count) % people)[torch.randperm(count, generator=generator)]
    vectors = torch.randn(count, DIM, generator=generator).mul_(noise)
    for rows in torch.arange(count).split(4096):
        part = vectors[rows[0] : rows[-1] + 1].add_(centres[pids[rows]])
        part.div_(part.norm(dim=1, keepdim=True))
    return Features(vectors, pids, torch.randint(cameras, (count,), generator=generator))


def sets(size: tuple[int, int, int, int], noise: float) -> tuple[Features, Features]:
    queries, gallery, people, cameras = size
    return clusters(queries, people, cameras, 1, noise), clusters(gallery, people, cameras, 2, noise)


def bare_product(query: Features, gallery: Features) -> None:
    """The matrix product alone, tile by tile into one buffer."""
    rows, columns = TILES["cpu"]
    out = torch.empty(rows, columns)
    for right in gallery.vectors.split(columns):
        for left in query.vectors.split(rows):
            torch.mm(left, right.T, out=out[: len(left), : len(right)])


def product_of_pairs(vectors: torch.Tensor) -> None:
    """The product of all pairs, each once, tile by tile into one buffer."""
    rows, columns = TILES["cpu"]
    out = torch.empty(rows, columns)
    for left in range(0, len(vectors), columns):
        right = vectors[left : left + columns]
        for first in range(0, min(left + columns, len(vectors)), rows):
            part = vectors[first : first + rows]
            torch.mm(part, right.T, out=out[: len(part), : len(right)])


def full_sort(query: Features, gallery: Features) -> np.ndarray:
    """Average precision of each query by numpy's argsort of its whole row; in blocks, or it would take 30 GB."""
    pids, cams = gallery.pids.numpy(), gallery.cams.numpy()
    result = []
    for rows in torch.arange(len(query)).split(512):
        order = np.argsort(-(query.vectors[rows] @ gallery.vectors.T).numpy(), axis=1)  # [q, G]
        same = pids[order] == query.pids[rows, None].numpy()
        counts = ~(same & (cams[order] == query.cams[rows, None].numpy()))
        hit = same & counts
        precision = hit.cumsum(1) / np.maximum(counts.cumsum(1), 1)
        with np.errstate(invalid="ignore"):
            result.append((precision * hit).sum(1) / hit.sum(1))
    return np.concatenate(result)


def textbook_rerank(
    query: Features, gallery: Features, k1: int = 20, k2: int = 6, weight: float = 0.3
) -> np.ndarray:
    """The method as usually written: dense matrices [N, N], a full argsort, loops over points."""
    features = torch.cat([query.vectors, gallery.vectors])
    n, q = len(features), len(query)
    original = (2 - 2 * features @ features.T).clamp_min_(0).pow_(2).numpy()
    original /= original.max(1, keepdims=True)
    order = np.argsort(original, axis=1).astype(np.int32)
    memberships = np.zeros((n, n), np.float32)

    def mutual(i: int, k: int) -> np.ndarray:
        near = order[i, : k + 1]
        return near[np.nonzero((order[near, : k + 1] == i).any(1))[0]]

    for i in range(n):
        first = expanded = mutual(i, k1)
        for j in first:
            candidate = mutual(j, round(k1 / 2))
            if len(np.intersect1d(candidate, first)) > 2 / 3 * len(candidate):
                expanded = np.append(expanded, candidate)
        expanded = np.unique(expanded)
        value = np.exp(-original[i, expanded])
        memberships[i, expanded] = value / value.sum()
    memberships = np.stack([memberships[order[i, :k2]].mean(0) for i in range(n)])
    inverse = [np.nonzero(memberships[:, j])[0] for j in range(n)]
    result = np.empty((q, n - q), np.float32)
    for i in range(q):
        overlap = np.zeros(n, np.float32)
        for j in np.nonzero(memberships[i])[0]:
            overlap[inverse[j]] += np.minimum(memberships[i, j], memberships[inverse[j], j])
        jaccard = 1 - overlap / (2 - overlap)
        result[i] = (jaccard * (1 - weight) + original[i] * weight)[q:]
    return result


def memory(name: str) -> float:
    """VmRSS or VmHWM of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def peak(function: Callable[[], object]) -> tuple[float, float]:
    """MiB that a call needs beyond what was there before it, and all of the process at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory("VmRSS")
    function()
    return memory("VmHWM") - before, memory("VmHWM")


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def against(bare: Callable[[], object], whole: Callable[[], object], repeats: int) -> dict[str, float]:
    """Seconds of both, in turn, and their ratio."""
    times = [(seconds(bare), seconds(whole)) for _ in range(repeats)]
    ratios = [whole / bare for bare, whole in times]
    return {
        "product s": min(t[0] for t in times), "whole s": min(t[1] for t in times),
        "ratio median": statistics.median(ratios), "ratio lowest": min(ratios), "ratio highest": max(ratios),
    }  # fmt: skip


def case_evaluation(size: tuple[int, int, int, int], noise: float, repeats: int) -> dict[str, float]:
    query, gallery = sets(size, noise)
    evaluate(Features(query.vectors[:9], query.pids[:9], query.cams[:9]), gallery)  # libraries start
    found: list[Retrieval] = []
    beyond, _ = peak(lambda: found.append(evaluate(query, gallery)))
    times = against(lambda: bare_product(query, gallery), lambda: evaluate(query, gallery), repeats)
    start = time.perf_counter()
    usual = full_sort(query, gallery)
    sorting = time.perf_counter() - start
    result = found[0]
    difference = np.nanmax(np.abs(usual - result.per_query_ap.numpy()))
    return {
        "mAP": 100 * result.mAP, **times, "MiB beyond features": beyond, "full sort s": sorting,
        "largest AP difference": float(difference),
    }  # fmt: skip


def case_rerank(
    size: tuple[int, int, int, int], noise: float, repeats: int, compare: bool
) -> dict[str, float]:
    query, gallery = sets(size, noise)
    plain = evaluate(query, gallery)
    start = time.perf_counter()
    found = []
    _, highest = peak(lambda: found.append(evaluate_reranked(query, gallery, normalize=False, progress=True)))
    own = time.perf_counter() - start
    values = {
        "mAP": 100 * plain.mAP, "re-ranked mAP": 100 * found[0].mAP, "whole s": own,
        "features MiB": (len(query) + len(gallery)) * DIM * 4 / 2**20, "process MiB at peak": highest,
    }  # fmt: skip
    if compare:
        rows = FeatureMatrix(query.vectors), FeatureMatrix(gallery.vectors)
        ours = partial(reranked, *rows, k1=20, k2=6, lambda_value=0.3)
        points = torch.cat([query.vectors, gallery.vectors])
        times = against(lambda: product_of_pairs(points), lambda: [None for _ in ours()], repeats)
        values |= {f"distances alone, {name}": value for name, value in times.items()}
        start = time.perf_counter()
        usual = textbook_rerank(query, gallery)
        values["textbook distances s"] = time.perf_counter() - start
        values["times faster"] = values["textbook distances s"] / times["whole s"]
        values["textbook process MiB at peak"] = memory("VmHWM")
        pairs = ours()
        wrong = [float(np.mean(np.abs(usual[i : i + len(d)] - d.numpy()) > 1e-4)) for i, d in pairs]
        values["share of distances off by more than 1e-4"] = statistics.mean(wrong)
    return values


def case_cost(count: int, noise: float) -> dict[str, float]:
    """An eighth of the images are queries, 27 images a person."""
    query, gallery = sets((count // 8, count - count // 8, max(2, count // 27), 6), noise)
    evaluate(Features(query.vectors[:9], query.pids[:9], query.cams[:9]), gallery)
    return {
        "bare product": seconds(lambda: bare_product(query, gallery)),
        "evaluation": seconds(lambda: evaluate(query, gallery)),
        "re-ranking": seconds(lambda: evaluate_reranked(query, gallery, normalize=False)),
    }


def run_case(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(arguments.threads)
    shrink = QUICK if arguments.quick else 1
    size = {key: (q // shrink, g // shrink, p // shrink, c) for key, (q, g, p, c) in SIZES.items()}
    if name.startswith("cost-"):
        return case_cost(int(name.removeprefix("cost-")) // shrink, arguments.noise)
    if name.startswith("rerank-"):
        data = name.removeprefix("rerank-")
        return case_rerank(size[data], arguments.noise, arguments.repeats, compare=data == "market")
    return case_evaluation(size[name], arguments.noise, arguments.repeats)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "cases", nargs="*", default=["market", "msmt", "rerank-market", "rerank-msmt", "cost"]
    )
    parser.add_argument("--quick", action="store_true", help=f"sizes divided by {QUICK}; nothing is drawn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--noise", type=float, default=3.5, help="of an image against its person's centre")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run_case(arguments.cases[0], arguments)))
        return
    options = [
        f"--threads={arguments.threads}",
        f"--repeats={arguments.repeats}",
        f"--noise={arguments.noise}",
    ]
    options += ["--quick"] * arguments.quick
    cost: dict[int, dict[str, float]] = {}
    for case in arguments.cases:
        for name in [f"cost-{n}" for n in COST] if case == "cost" else [case]:
            command = [sys.executable, __file__, name, "--child", *options]
            values = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in values.items()), flush=True)
            if case == "cost":
                cost[int(name.removeprefix("cost-"))] = values
    if cost and not arguments.quick:
        series = {key: [(n, values[key]) for n, values in cost.items()] for key in cost[COST[0]]}
        title = f"Cost on {arguments.threads} cores, {DIM}-d features, one image in eight a query"
        draw(ROOT / "docs" / "img" / "retrieval_cost.png", series, title=title, x="images N", y="seconds")


if __name__ == "__main__":
    main()
