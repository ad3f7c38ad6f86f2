"""Do thresholds keep their false match rate among other people? On the built-in winter, for a checkpoint.

python benchmarks/calibration.py checkpoints/NAME/last.pt [--root data] [--draws 40]

Thresholds come from one half of the people, rates from the other: of the 200 of the training split, of the 100 of query
and gallery (every photo of both halves then is as new to the network), and from one split to the other.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from crossreid import Embedder
from crossreid.datasets import load
from crossreid.engine.deploy.calibration import RATES, calibrate
from crossreid.engine.deploy.pair_truth import from_labels

Sample = tuple[Any, Any, Any]  # unit vectors [N, D], identities [N], cameras [N]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--root", default="data")
    parser.add_argument("--draws", type=int, default=40)
    options = parser.parse_args()
    embed, splits = Embedder(options.checkpoint, batch_size=128), load("synthetic:winter", options.root)
    parts = {name: [getattr(splits, s) for s in name.split("+")] for name in ("train", "query+gallery")}
    samples = {}
    for name, found in parts.items():
        vectors = np.concatenate([embed(list(split.paths)) for split in found])
        pids, cams = (np.concatenate([getattr(split, key) for split in found]) for key in ("pids", "cams"))
        known = pids > 0 if name != "train" else pids >= 0  # 0: distractors
        samples[name] = vectors[known], pids[known], cams[known]
    print(f"{'thresholds from':<24}{'rates among':<24}" + "".join(f"{rate:>30g}" for rate in RATES))
    first, second = samples
    for a, b in ((first, second), (second, first)):
        told = [f"{low:.2g} to {high:.2g}: {rate:.2g}" for low, high, rate in _once(samples[a], samples[b])]
        print(f"{a:<24}{b:<24}" + "".join(f"{text:>30}" for text in told))
    for name, sample in samples.items():
        inside = np.array([_halves(sample, draw) for draw in range(options.draws)])
        told = [f"{count} of {options.draws} inside" for count in inside.sum(0)]
        print(f"{'half of ' + name:<24}{'the other half':<24}" + "".join(f"{text:>30}" for text in told))


def _once(one: Sample, other: Sample) -> list[tuple[float, float, float]]:
    """For each rate its interval, and the rate among the other people."""
    result = calibrate(one[0], from_labels(one[1], one[2]))
    scores = (other[0] @ other[0].T)[other[1][:, None] < other[1]]
    return [(t.rate_low, t.rate_high, float((scores >= t.threshold).mean())) for t in result.thresholds]


def _halves(sample: Sample, draw: int) -> list[bool]:
    """Whether each rate of one half's thresholds lies in its interval in the other half; every second photo is used."""
    people = np.random.default_rng(draw).permutation(np.unique(sample[1]))
    mine = np.isin(sample[1], people[: len(people) // 2])
    rows = np.arange(len(mine)) % 2 == 0
    one, other = ([column[mine & rows] for column in sample], [column[~mine & rows] for column in sample])
    inside = [low <= rate <= high for low, high, rate in _once((*one,), (*other,))]  # type: ignore[arg-type]
    return [*inside, *[True] * (len(RATES) - len(inside))]  # rates that the pairs cannot show


if __name__ == "__main__":
    main()
