"""Speed and memory of training, on a GPU at full size and on a CPU at a small one, with the same code.

    python benchmarks/train.py [PART ...] [--out FILE] [--folder FOLDER]

loop      images/s of (a) bare training steps on batches that lie on the device, (b) the trainer's loop with all its
          handlers from the decoded store, (c) the same loop fed by PIL, torchvision and DataLoader workers, in turn;
          peak memory; the share of each part of a step, on a GPU of the time that it is busy
loss      the camera-aware loss against its direct dense formulation, forward and backward
bank      memory and camera-aware loss at N/4, N/2 and N rows: time and peak memory of a step
methods   (b) over (a) for every method with its demo YAML
startup   seconds from the command to the first finished step, with a warm store

Numbers are medians over rounds; a ratio is the median of the rounds' own.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from benchmarks.train_parts import STEPS, Run, fill, in_trainer, in_turn, peak, ratio, seconds, shares
from crossreid import configs
from crossreid.engine.checkpoint import save
from crossreid.engine.distributed import Ranks, unwrap
from crossreid.engine.reading import read
from crossreid.losses.camera_blocks import CameraBlocks
from crossreid.losses.neighborhood import camera_aware
from crossreid.modeling.memory import FeatureMemory

METHODS = ("demo", "ecn/demo", "disentangle/demo", "m3l/demo")
DEFAULTS: dict[str, tuple[Any, Any]] = {  # on a GPU, on a CPU; workers: of way (c); dim: of memories in loss, bank
    "backbone": ("resnet50", "tiny"), "size": ([256, 128], [128, 64]), "batch": (256, 64),
    "rows": ([12_936, 32_621], [4_000]), "steps": (50, 10), "amp": ("float16", "bfloat16"), "workers": (16, 2),
    "bank_rows": (1_000_000, 1_000_000), "dim": (2048, 128),
}  # fmt: skip


def ours(o: argparse.Namespace, *more: object) -> list[str]:
    """KEY VALUE pairs that all runs share, then ``more``."""
    pairs: list[object] = ["DATASETS.ROOT", o.folder, "DATASETS.SYNTHETIC.IDENTITIES", 64]
    pairs += ["DATASETS.SYNTHETIC.TEST_IDENTITIES", 8, "DATASETS.CACHE", "disk", "NAME", "bench"]
    pairs += ["DATASETS.CACHE_DIR", o.folder / "store", "OUTPUT_DIR", o.folder / "runs"]
    pairs += ["MODEL.PRETRAINED", "none", "TEST.AT_START", "false", "DATALOADER.ITERS_PER_EPOCH", STEPS]
    pairs += ["SOLVER.LR", 1e-4, "SOLVER.NEW_LR", 1e-4]  # memories are random: no step may diverge
    return [str(item) for item in (*pairs, *more)]


def table(o: argparse.Namespace, domain: str, count: int) -> str:
    """A dataset of ``count`` training images: those of a built-in domain, again and again as other people."""
    splits = read(configs.load("configs/demo.yml", ours(o)), f"synthetic:{domain}")
    train, path = splits.train, o.folder / f"{domain}-{count}.csv"
    rows: list[tuple[object, ...]] = [("path", "pid", "camid", "split")]
    for copy, i in (divmod(row, len(train)) for row in range(count)):
        rows.append((train.paths[i], train.pids[i] + copy * train.num_identities, train.cams[i], "train"))
    for name, split in (("query", splits.query), ("gallery", splits.gallery)):
        rows.append((split.paths[0], split.pids[0], split.cams[0], name))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return f"csv:{path}"


def loop_arguments(o: argparse.Namespace, count: int) -> list[str]:
    """Camera-aware learning with mixup and both neighbourhood losses, ``count`` images in either domain."""
    pairs = ["DATASETS.SOURCES", [table(o, "summer", count)], "DATASETS.TARGET", table(o, "winter", count)]
    pairs += ["MODEL.BACKBONE", o.backbone, "INPUT.SIZE", list(o.size), "INPUT.PAD", 10 * o.size[0] // 256]
    pairs += ["DATALOADER.BATCH_SIZE", o.batch, "SOLVER.AMP", o.amp, "LOG.PERIOD", min(50, o.steps)]
    return ours(o, *pairs, "CAMERA_AWARE.INTRA_START", 1, "CAMERA_AWARE.INTER_START", 1)


def loop(o: argparse.Namespace) -> dict[str, dict[str, float]]:
    def measure(run: Run) -> dict[str, float]:
        ways = {"a": lambda: run.limit(o.steps), "b": lambda: run.loop(o.steps)}
        found = in_turn({**ways, "c": lambda: run.per_sample(o.steps, o.workers)}, o.rounds)
        a, b, c = found.values()
        values = {f"{name} images/s": statistics.median(speeds) for name, speeds in found.items()}
        values |= {"b/a": ratio(b, a), "b/a lowest": min(y / x for x, y in zip(a, b)), "b/c": ratio(b, c)}
        values["MiB beyond the state"], values["MiB at peak"] = peak(lambda: run.loop(o.steps), o.device)
        parts = shares(run, min(10, o.steps), statistics.median(b))
        return {**values, **{f"{name} %": 100 * value for name, value in parts.items()}}

    cfgs = {n: configs.load("configs/duke2market.yml", loop_arguments(o, n)) for n in o.rows}
    return {f"N = {n:,}": in_trainer(cfg, o.ranks, measure) for n, cfg in cfgs.items()}


def methods(o: argparse.Namespace) -> dict[str, dict[str, float]]:
    first, result = o.folder / "first.pt", {}

    def measure(run: Run) -> dict[str, float]:
        found = in_turn({"a": lambda: run.limit(o.steps), "b": lambda: run.loop(o.steps)}, o.rounds)
        save(first, {"model": unwrap(run.method.state["model"]).state_dict()})
        speeds = {f"{name} images/s": statistics.median(values) for name, values in found.items()}
        return {**speeds, "b/a": ratio(found["b"], found["a"])}

    for name in (*METHODS, "central_feature/demo_pretrain", "central_feature/demo"):
        weights = ["MODEL.WEIGHTS", first] if name == "central_feature/demo" else []
        result[name] = in_trainer(configs.load(f"configs/{name}.yml", ours(o, *weights)), o.ranks, measure)
    return result


def direct(s: Tensor, index: Tensor, cams: Tensor, memory_cams: Tensor) -> list[Tensor]:
    """The camera-aware loss as it is written down: a loop over cameras, selections, gradients by autograd."""
    sums = [s.new_zeros(()), s.new_zeros(())]
    for camera in cams.unique().tolist():
        rows, same = (cams == camera).nonzero()[:, 0], memory_cams == camera
        part, values = s[rows], s.detach()[rows]  # [R, N]
        own = torch.zeros_like(values, dtype=torch.bool).scatter_(1, index[rows, None], True)
        for side, columns in enumerate((same, ~same)):
            log_p = torch.log_softmax(10.0 * part[:, columns], dim=1).clamp_min(math.log(1e-5))
            candidates = columns & ~own
            most = values.where(candidates, -1.0).amax(dim=1, keepdim=True)
            near = (candidates & (values > 0.8 * most))[:, columns]
            weight = near / near.sum(dim=1, keepdim=True).clamp_min(1)
            sums[side] = sums[side] - (log_p * (weight + own[:, columns])).sum()
    return [total / len(cams) for total in sums]


class Case:
    """A memory of random rows with cameras, and half a batch of features near some of them, about as long."""

    def __init__(self, o: argparse.Namespace, count: int) -> None:
        torch.manual_seed(0)
        self.memory, self.name = FeatureMemory(count, o.dim).to(o.device), f"D = {o.dim}, N = {count:,}"
        fill(self.memory)
        cams = torch.randint(6, (count,), device=o.device)
        self.index = torch.randperm(count, device=o.device)[: o.batch // 2]
        rows = self.memory.features[self.index]
        self.features = (rows + torch.randn_like(rows) / o.dim**0.5).div(2**0.5).requires_grad_()
        self.similarity = self.memory.similarity(self.features).detach().requires_grad_()
        self.cams, self.blocks = cams, CameraBlocks.of(cams)  # made once, as the method does

    def losses(self, similarity: Tensor) -> tuple[Tensor, Tensor]:
        return camera_aware(similarity, self.index, self.cams[self.index], self.blocks, scale=10.0, eps=0.8)

    def looped(self, similarity: Tensor) -> list[Tensor]:
        return direct(similarity, self.index, self.cams[self.index], self.cams)

    def gradient(self, function: Callable[[Tensor], Any]) -> list[Tensor]:
        """Both losses and the gradient of a weighted sum of them."""
        intra, inter = function(self.similarity)
        return [intra.detach(), inter.detach(), *torch.autograd.grad(intra + 0.5 * inter, self.similarity)]

    def step(self) -> None:
        """Similarity, loss, gradient of the features, update."""
        intra, inter = self.losses(self.memory.similarity(self.features))
        (intra + 0.5 * inter).backward()
        self.memory.update(self.features, self.index, keep=0.6, rounds=1)


def loss(o: argparse.Namespace) -> dict[str, dict[str, float]]:
    result: dict[str, dict[str, float]] = {}
    for case in (Case(o, count) for count in o.rows):
        functions: dict[str, Callable[[Tensor], Any]] = {"ours": case.losses, "direct": case.looped}
        ways = {n: partial(seconds, partial(case.gradient, f), o.device) for n, f in functions.items()}
        beyond = {f"{n} MiB": peak(partial(case.gradient, f), o.device)[0] for n, f in functions.items()}
        took = in_turn(ways, 3 * o.rounds)
        pairs = zip(*map(case.gradient, functions.values()))
        result[case.name] = beyond | {
            **{f"{name} ms": 1e3 * statistics.median(times) for name, times in took.items()},
            "times faster": ratio(took["direct"], took["ours"]),
            "largest relative difference": max(float((x - y).norm() / y.norm()) for x, y in pairs),
        }
    return result


def bank(o: argparse.Namespace) -> dict[str, dict[str, float]]:
    result: dict[str, dict[str, float]] = {}
    for case in (Case(o, o.bank_rows // part) for part in (4, 2, 1)):
        count = len(case.memory.features)
        beyond, block = peak(case.step, o.device)[0], len(case.index) * count * 4 / 2**20
        took = statistics.median(seconds(case.step, o.device) for _ in range(3 * o.rounds))
        result[case.name] = {
            "bank MiB": count * o.dim * 4 / 2**20, "step ms": 1e3 * took, "ns a row": 1e9 * took / count,
            "MiB beyond the bank": beyond, "in blocks of [B, N] float32": beyond / block,
        }  # fmt: skip
    return result


def startup(o: argparse.Namespace) -> dict[str, dict[str, float]]:
    device = "0" if o.device.type == "cuda" else "cpu"
    command = [sys.executable, "train.py", "--devices", device, "configs/duke2market.yml"]
    command += [*loop_arguments(o, o.rows[0]), "LOG.PERIOD", "1"]
    lines = o.folder / "runs" / "logs" / "bench" / "metrics.jsonl"
    times = []
    for _ in range(1 + o.rounds):  # the first may still build the store
        lines.unlink(missing_ok=True)
        start = time.perf_counter()
        with subprocess.Popen(command, cwd=Path(__file__).parent.parent, stdout=subprocess.DEVNULL) as run:
            while not (lines.is_file() and lines.read_text().count("\n")):
                assert run.poll() is None, "the run ended before its first step"
                time.sleep(0.01)
            times.append(time.perf_counter() - start)
            run.kill()
    return {"command to first step": {"seconds": statistics.median(times[1:])}}


def show(part: str, rows: dict[str, dict[str, float]]) -> None:
    print(f"\n| {part} | " + " | ".join(rows) + " |\n|---" + "|---:" * len(rows) + "|")
    for name in next(iter(rows.values())):
        print(f"| {name} | " + " | ".join(f"{row[name]:,.4g}" for row in rows.values()) + " |", flush=True)


PARTS = {"loop": loop, "loss": loss, "bank": bank, "methods": methods, "startup": startup}


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS], metavar="PART", help="default: all of them")
    for name, (large, small) in DEFAULTS.items():
        value = large if gpu else small
        shape = {"nargs": "+", "type": type(value[0])} if isinstance(value, list) else {"type": type(value)}
        parser.add_argument(f"--{name.replace('_', '-')}", default=value, help=f"{value}", **shape)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0: its own choice")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "reid-bench")
    parser.add_argument("--out", type=Path, help="write the numbers there as JSON, too")
    o = parser.parse_args()
    o.device = torch.device("cuda", 0) if gpu else torch.device("cpu")
    o.ranks, o.folder = Ranks(0, 1, o.device), o.folder.resolve()
    o.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(o.threads or torch.get_num_threads())
    place = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    numbers: dict[str, Any] = {"place": f"{place}, torch {torch.__version__}"}
    numbers["settings"] = {name: getattr(o, name) for name in (*DEFAULTS, "rounds")}
    print(*numbers.values(), sep="; ", flush=True)
    for part in o.parts or PARTS:
        numbers[part] = PARTS[part](o)
        show(part, numbers[part])
        if o.out:
            o.out.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
