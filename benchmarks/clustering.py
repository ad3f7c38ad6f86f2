"""Features to labels: time and peak memory of neighbours, Jaccard distance and DBSCAN, each part alone.

python benchmarks/clustering.py [12936 32621 93820] [--distance jaccard ca_jaccard] [--threads 2]

Features as in ``benchmarks/retrieval.py``: 2048-d, L2-normalised, a random cluster a person, 17 images a person, 6
cameras; k1 30, k2 6, eps 0.6, min_samples 4. Every case runs in a process of its own, whose memory is read from Linux.
"product" is the bare matrix product of all pairs, each once. ``--draw`` also draws docs/img/clustering_cost.png.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.loglog import draw
from benchmarks.retrieval import ROOT, clusters, memory, product_of_pairs
from crossreid.engine.evaluation import criteria
from crossreid.engine.evaluation.clusters import MOST, ClusterOptions, cluster_memberships
from crossreid.engine.evaluation.dbscan import dbscan
from crossreid.engine.evaluation.jaccard import Work, distances_of

SIZES = (12_936, 32_621, 93_820)  # training images of Market-1501 and MSMT17, all images of MSMT17's test


def case(count: int, distance: str, noise: float, silhouette: bool) -> dict[str, float]:
    data = clusters(count, count // 17, 6, 1, noise)
    options, work, seconds = ClusterOptions(distance=distance), Work(), {}

    def timed(name: str, function: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = function()
        seconds[name] = time.perf_counter() - start
        return result

    timed("product s", lambda: product_of_pairs(data.vectors))
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    rows = timed(
        "neighbours and memberships s", lambda: cluster_memberships(data.vectors, data.cams, options, work)
    )
    pairs = timed("distances s", lambda: distances_of(rows, work, limit=MOST))
    labels = timed("dbscan s", lambda: dbscan(pairs, eps=options.eps, min_samples=options.min_samples))
    whole = sum(seconds.values()) - seconds["product s"]
    values = {
        **seconds, "whole s": whole, "process MiB at peak": memory("VmHWM"),
        "features MiB": data.vectors.nbytes / 2**20, "clusters": labels.max() + 1,
        "clustered": (labels >= 0).mean(), "rand index": criteria.rand_index(data.pids, labels),
    }  # fmt: skip
    if silhouette:
        timed("silhouette s", lambda: criteria.sampled_silhouette(rows, labels))
        values["silhouette s"] = seconds["silhouette s"]
    return {name: float(value) for name, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES)
    parser.add_argument("--distance", nargs="*", default=["jaccard"], choices=["jaccard", "ca_jaccard"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--noise", type=float, default=3.5, help="of an image against its person's centre")
    parser.add_argument("--silhouette", action="store_true")
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        torch.set_num_threads(arguments.threads)
        found = case(arguments.sizes[0], arguments.distance[0], arguments.noise, arguments.silhouette)
        print(json.dumps(found))
        return
    options = [f"--threads={arguments.threads}", f"--noise={arguments.noise}"]
    options += ["--silhouette"] * arguments.silhouette
    lines: dict[str, list[tuple[float, float]]] = {}
    for count in arguments.sizes:
        for distance in arguments.distance:
            command = [sys.executable, __file__, str(count), "--distance", distance, "--child", *options]
            values = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            print(f"{distance} {count}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()), flush=True)
            for name, unit in (("whole s", "s"), ("product s", "s"), ("process MiB at peak", "MiB")):
                shown = name.rpartition(" ")[0] if unit == "s" else "peak, MiB"
                lines.setdefault(f"{distance}: {shown}", []).append((count, values[name]))
    if arguments.draw:
        title = f"Features to labels on {arguments.threads} cores, 2048-d features"
        picture = ROOT / "docs" / "img" / "clustering_cost.png"
        draw(picture, lines, title=title, x="images N", y="seconds, or MiB")


if __name__ == "__main__":
    main()
