"""Time and peak memory of one M3L step against a plain supervised step on the same batch.

    python benchmarks/m3l_step.py            small size, CPU
    python benchmarks/m3l_step.py --gpu      ResNet-50, 3 x 64 images of 256 x 128, float16

Every variant runs in a process of its own, since a CPU process does not give its peak back. The memory counted is what
the steps add to network, optimizer and images.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import threading
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from crossreid import configs
from crossreid.engine.distributed import Ranks
from crossreid.engine.methods.m3l import Learner
from crossreid.engine.optim import Precision
from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.memory import FeatureMemory
from crossreid.modeling.meta_reid import MetaReIDNet

SOURCES, CLASSES, INSTANCES = 3, 64, 4
OPTIONS = {
    "plain (joint training)": ["M3L.META", "false"],
    "M3L, everything in one graph": [],  # what a direct implementation does
    "M3L original": [],
    "M3L full": ["M3L.META_GRADIENT", "full"],
    "M3L original, RECOMPUTE": ["M3L.RECOMPUTE", "true"],
}


def learner(variant: str, gpu: bool) -> Learner:
    device = torch.device("cuda" if gpu else "cpu")
    cfg = configs.load("configs/m3l/demo.yml", OPTIONS[variant])
    torch.manual_seed(0)
    network = MetaReIDNet(build_backbone("resnet50" if gpu else "tiny")).to(device)
    network.to(memory_format=torch.channels_last)
    memories = {f"source_{i}": FeatureMemory(CLASSES, network.dim).to(device) for i in range(SOURCES)}
    for memory in memories.values():
        memory.features.normal_().div_(memory.features.norm(dim=1, keepdim=True))
    optimizer = torch.optim.Adam(network.parameters(), lr=3.5e-4, weight_decay=5e-4, fused=gpu)
    precision = Precision("float16" if gpu else "float32", device)
    return Learner(cfg.M3L, 0, INSTANCES, network, memories, optimizer, precision, Ranks(0, 1, device))


def one_graph_step(it: Learner, images: dict[str, Tensor], pids: dict[str, Tensor], step: int) -> None:
    """Both losses kept in one graph until the end."""
    names = list(images)
    held, params = names.pop(step % SOURCES), dict(it.network.named_parameters())
    it.network.neck.forget()
    losses = [it.loss(n, images[n], pids[n], store=slot) for slot, n in enumerate(names)]
    train = torch.stack(losses).mean()
    scale = it.loss_scale()
    found = torch.autograd.grad(train * scale, list(params.values()), create_graph=True)
    moved = it.inner_step(
        {n: p.detach() for n, p in params.items()}, {n: g / scale for n, g in zip(params, found)}
    )
    total = train + it.loss(held, images[held], pids[held], moved, mixed=True, lam=0.5)
    grads = torch.autograd.grad(total * scale, list(params.values()))
    it.apply(dict(zip(params, grads)))


class Peak:
    """Largest resident memory of this process while it is open, over what it was at the start, in bytes."""

    def __init__(self, gpu: bool) -> None:
        self.gpu, self.bytes, self._open = gpu, 0, True

    def __enter__(self) -> Peak:
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
            self._start = torch.cuda.memory_allocated()
        else:
            self._start = self._resident()
            self._thread = threading.Thread(target=self._watch)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.gpu:
            self.bytes = torch.cuda.max_memory_allocated() - self._start
            return
        self._open = False
        self._thread.join()

    def _watch(self) -> None:
        while self._open:
            self.bytes = max(self.bytes, self._resident() - self._start)
            time.sleep(0.002)

    @staticmethod
    def _resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(variant: str, gpu: bool, images_each: int, size: tuple[int, int], steps: int) -> dict[str, float]:
    it = learner(variant, gpu)
    device = it.ranks.device
    images = {f"source_{i}": torch.randn(images_each, 3, *size, device=device) + i for i in range(SOURCES)}
    pids = {name: torch.arange(images_each, device=device) // INSTANCES for name in images}
    step = {
        "plain (joint training)": it.plain_step,
        "M3L, everything in one graph": partial(one_graph_step, it),
    }.get(variant, it.meta_step)
    if gpu:
        step(images, pids, 0)  # algorithms are chosen, buffers and moments are made
    times = []
    with Peak(gpu) as peak:
        for number in range(1, steps + 1):
            start = time.perf_counter()
            step(images, pids, number)
            it.refresh(images, pids)
            if gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times[1:]), "megabytes": peak.bytes / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the numbers there, too")
    options = parser.parse_args()
    images, size = (64, (256, 128)) if options.gpu else (32, (128, 64))
    results = {}
    for variant in OPTIONS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            results[variant] = pool.apply(measure, (variant, options.gpu, images, size, options.steps))
    plain = results["plain (joint training)"]
    name = torch.cuda.get_device_name() if options.gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}; torch {torch.__version__}; {SOURCES} x {images} images of {size[0]} x {size[1]}\n")
    print("| step | seconds | of plain | peak MB | of plain |\n|---|---|---|---|---|")
    for variant, found in results.items():
        ratios = found["seconds"] / plain["seconds"], found["megabytes"] / plain["megabytes"]
        print(
            f"| {variant} | {found['seconds']:.3f} | {ratios[0]:.1f} | {found['megabytes']:.0f} | {ratios[1]:.1f} |"
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
