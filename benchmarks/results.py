"""The tables of docs/results.md: every run on the built-in domains, over several seeds, mean and deviation.

python benchmarks/results.py camera_aware [ecn] [disentangle] [m3l] [central_feature] [--seeds 0 1 2] [--lanes 2]
python benchmarks/results.py camera_aware --commands      # the rows' commands, nothing runs

Runs whose result is in logs/ already are not repeated, an interrupted one goes on. Each lane is one process and thread.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Args:
        title: what it shows.
        run: name of the run; several rows may read one.
        config: its YAML.
        overrides: beside NAME and SEED; "{seed}" stands for the seed.
        read: evaluation that the row tells.
    """

    title: str
    run: str
    config: str
    overrides: str = ""
    read: str = "final"

    def name(self, seed: int) -> str:
        return f"{self.run}-s{seed}"

    def command(self, seed: int | str, name: str) -> list[str]:
        more = shlex.split(self.overrides.replace("{seed}", str(seed)))
        return [self.config, "NAME", name, "SEED", str(seed), *more]

    def score(self, seed: int) -> dict[str, float] | None:
        path = ROOT / "logs" / self.name(seed) / "metrics.jsonl"
        if not path.exists():
            return None
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        if not any(entry.get("title") == "final" for entry in entries):
            return None
        return next(entry for entry in reversed(entries) if entry.get("title") == self.read)


DEMO, ECN = "configs/demo.yml", "configs/ecn/demo.yml"
DISENTANGLE, M3L = "configs/disentangle/demo.yml", "configs/m3l/demo.yml"
STAGE1, STAGE2 = "configs/central_feature/demo_pretrain.yml", "configs/central_feature/demo.yml"
PLAIN = "CAMERA_AWARE.MIXUP false"
AGNOSTIC = "CAMERA_AWARE.NEIGHBOR_MODE camera_agnostic CAMERA_AWARE.AGNOSTIC_START 3"
ARN = (
    "DISENTANGLE.VARIANT arn DISENTANGLE.JITTER false DISENTANGLE.APP_WEIGHT 0 DISENTANGLE.POOL avg "
    "INPUT.MEAN [0.5,0.5,0.5] INPUT.STD [0.5,0.5,0.5] DATALOADER.INSTANCES 0"
)
FIRST = "MODEL.WEIGHTS checkpoints/patch-first-s{seed}/last.pt"

TABLES: dict[str, Sequence[Row]] = {
    "camera_aware": (
        Row("direct transfer", "adapted", DEMO, PLAIN, read="direct transfer"),
        Row("camera-agnostic neighbours", "agnostic", DEMO, f"{PLAIN} {AGNOSTIC}"),
        Row("intra-camera loss", "intra", DEMO, f"{PLAIN} CAMERA_AWARE.INTER_WEIGHT 0"),
        Row("intra + inter", "adapted", DEMO, PLAIN),
        Row("intra + inter + mixup (the demo)", "mixup", DEMO),
        Row(
            "supervised on the target",
            "bound",
            DEMO,
            "DATASETS.SOURCES ['synthetic:winter'] DATASETS.ADAPT false CAMERA_AWARE.SOURCE_EPOCHS 0 "
            "SOLVER.EPOCHS 16 SOLVER.STEPS [14]",
        ),
    ),
    "ecn": (
        Row("direct transfer", "ecn", ECN, read="direct transfer"),
        Row("exemplar", "exemplar", ECN, "ECN.NEIGHBORS 0 INPUT.CAMSTYLE none"),
        Row("exemplar + camera", "camera", ECN, "ECN.NEIGHBORS 0"),
        Row("exemplar + camera + neighbourhood (ECN)", "ecn", ECN),
        Row("ECN + MMD", "mmd", ECN, "ECN.MMD true"),
    ),
    "disentangle": (
        Row("direct transfer", "pose", DISENTANGLE, read="direct transfer"),
        Row("identity and pose", "pose", DISENTANGLE),
        Row("ARN", "arn", DISENTANGLE, ARN),
    ),
    "m3l": (
        Row("joint training", "joint", M3L, "M3L.META false"),
        Row("M3L, META_GRADIENT original", "original", M3L, "M3L.META_GRADIENT original"),
        Row("M3L, META_GRADIENT full (the demo)", "full", M3L),
    ),
    "central_feature": (
        Row("stage 1: labelled summer", "patch-first", STAGE1),
        Row("stage 2, PEDAL (PAUL)", "pedal", STAGE2, FIRST),
        Row("stage 2, growing neighbours", "growing", STAGE2, f"{FIRST} CENTRAL_FEATURE.NEIGHBOR_GROWTH 20"),
        Row("stage 2, controlled memory", "controlled", STAGE2, f"{FIRST} CENTRAL_FEATURE.MEMORY controlled"),
        Row("stage 2, latest memory", "latest", STAGE2, f"{FIRST} CENTRAL_FEATURE.MEMORY latest"),
        Row("stage 2, PEDAL alone", "patches", STAGE2, f"{FIRST} CENTRAL_FEATURE.IMAGE_WEIGHT 0"),
        Row("stage 2, image-level loss alone", "images", STAGE2, f"{FIRST} CENTRAL_FEATURE.PATCH_WEIGHT 0"),
    ),
}


def train(row: Row, seed: int, devices: str) -> None:
    """Run a row unless its result lies in logs/."""
    if row.score(seed):
        return
    command = [*row.command(seed, row.name(seed)), "RESUME", "auto"]
    print("  " + shlex.join(command), flush=True)
    subprocess.run(
        [sys.executable, "train.py", "--devices", devices, *command],
        cwd=ROOT,
        env={"OMP_NUM_THREADS": "1", **os.environ},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def run_all(rows: Sequence[Row], seeds: Sequence[int], devices: str, lanes: int) -> None:
    """Rows from scratch first, then those that start from the weights of one."""
    runs = {row.run: row for row in rows}.values()
    needing = [row for row in runs if "MODEL.WEIGHTS" in row.overrides]
    for part in ([row for row in runs if row not in needing], needing):
        with ThreadPoolExecutor(lanes) as pool:
            for done in [pool.submit(train, row, seed, devices) for seed in seeds for row in part]:
                done.result()


def table(rows: Sequence[Row], seeds: Sequence[int]) -> str:
    lines = ["| | mAP | Rank-1 | Rank-5 |", "|---|---|---|---|"]
    for row in rows:
        scores = [score for seed in seeds if (score := row.score(seed))]
        if len(scores) < len(seeds):
            lines.append(f"| {row.title} | {len(scores)} of {len(seeds)} runs done | | |")
            continue
        cells = [[100 * score[f"target/{key}"] for score in scores] for key in ("mAP", "rank1", "rank5")]
        spread = [statistics.stdev(cell) if len(cell) > 1 else 0.0 for cell in cells]
        values = [f"{statistics.mean(cell):.1f} ± {s:.1f}" for cell, s in zip(cells, spread)]
        lines.append(f"| {row.title} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def commands(rows: Sequence[Row]) -> str:
    lines = [
        f"{row.title}: bash train.sh cpu {shlex.join(row.command('S', row.run + '-sS'))}"
        + (f"   # the line {row.read!r} of its table" if row.read != "final" else "")
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+", choices=list(TABLES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--lanes", type=int, default=2, help="runs at a time")
    parser.add_argument("--devices", default="cpu")
    parser.add_argument("--commands", action="store_true", help="tell the rows' commands, run nothing")
    parser.add_argument("--done", action="store_true", help="tables of what logs/ holds, run nothing")
    arguments = parser.parse_args()
    for name in arguments.tables:
        rows = TABLES[name]
        if arguments.commands:
            print(commands(rows))
            continue
        if not arguments.done:
            run_all(rows, arguments.seeds, arguments.devices, arguments.lanes)
        print(f"\n{name}, seeds {arguments.seeds}\n\n{table(rows, arguments.seeds)}", flush=True)


if __name__ == "__main__":
    main()
