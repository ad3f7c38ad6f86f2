"""Parameters, speed and memory of backbones on one core. Speed is from CPU time: other programs do not count.

    python benchmarks/backbones.py [NAME ...] [--size 256 128] [--batch 4]

Extraction is a pass in evaluation mode; training is a pass of METHOD supervised's network, its loss and an SGD step.
Memory is what a training pass keeps for backward, an image.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.nn import functional as F

from crossreid.modeling import ModelError
from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.strong_net import StrongNet

NAMES = (
    "tiny", "resnet18", "resnet50", "resnet50_ibn_a", "resnext50_32x4d", "mobilenet_v2", "mobilenet_v3_small",
    "efficientnet_b0", "convnext_tiny", "swin_t", "vit_small", "vit_small_ics", "vit_base", "osnet_x1_0", "osnet_x0_25",
    "osnet_ain_x1_0", "solider_swin_tiny", "clip_vit_b_16",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 128), help="height and width")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, one thread, batches of {options.batch} at {options.size[0]}x{options.size[1]}"
    )
    print(
        "| backbone | map | parameters, M | extraction, images/s | training, images/s | kept, MB an image |"
    )
    print("|---|---|---|---|---|---|")
    for name in options.names:
        print(row(name, tuple(options.size), options.batch, options.repeats), flush=True)


def row(name: str, size: tuple[int, int], batch: int, repeats: int) -> str:
    """One line of the table, with the last stride that the backbone can have, 1 if it can."""
    torch.manual_seed(0)
    try:
        backbone = build_backbone(name, size=size)
    except ModelError:
        backbone = build_backbone(name, size=size, last_stride=2)
    net = StrongNet(backbone, 751)
    images, pids = torch.randn(batch, 3, *size), torch.arange(batch) % 4
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)

    def extract() -> None:
        with torch.no_grad():
            net(images)

    def train() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(images).logits[0], pids).backward()
        optimizer.step()

    kept = _kept(lambda: net.train()(images)) / batch / 2**20
    training = batch / _seconds(train, repeats)
    net.eval()
    extraction = batch / _seconds(extract, repeats)
    with torch.no_grad():
        maps = backbone(images)
    millions = sum(p.numel() for p in backbone.parameters()) / 1e6
    shape = "x".join(map(str, maps.shape[1:]))
    return f"| `{name}` | {shape} | {millions:.1f} | {extraction:.1f} | {training:.1f} | {kept:.0f} |"


def _seconds(step: Callable[[], None], repeats: int) -> float:
    """Median CPU time of a step, after one that does not count."""
    step()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return statistics.median(times)


def _kept(forward: Callable[[], object]) -> int:
    """Bytes that a forward pass keeps for backward beside the parameters, each storage once."""
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if not isinstance(x, torch.nn.Parameter):
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        held = forward()  # held until counted: addresses are not used twice
    del held
    return sum(kept.values())


if __name__ == "__main__":
    main()
