"""What ``benchmarks/train.py`` measures with: the trainer's loop, the per-sample way to feed it, a profile by part."""

from __future__ import annotations

import contextlib
import gc
import io
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any
from unittest import mock

import torch
from ignite.engine import Engine, Events
from PIL import Image
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import transforms as tv
from yacs.config import CfgNode

from benchmarks.retrieval import peak as process_peak
from crossreid.datasets import Batch, Split
from crossreid.datasets.streams import Streams
from crossreid.engine.data import Data
from crossreid.engine.distributed import Ranks
from crossreid.engine.hardware import compiled
from crossreid.engine.method import Method
from crossreid.engine.methods import camera_aware
from crossreid.engine.optim import Precision
from crossreid.engine.training import trainer
from crossreid.engine.training.handlers import Handlers
from crossreid.engine.training.prefetch import on_device
from crossreid.modeling.memory import FeatureMemory
from crossreid.modeling.reid import ReIDNet

STEPS = 2000  # of an epoch here; all measurements lie inside one
WARM = 4  # steps before the clock starts
RANGES: list[tuple[str, Any, str]] = [  # what the profile tells apart, and the functions that do it
    ("data", Streams, "__next__"),
    ("copies to the device", Batch, "to"),
    ("transforms", Data, "augmented"),
    ("forward", ReIDNet, "forward"),
    ("loss", camera_aware, "neighbor_losses"),
    ("backward", Precision, "step"),
    ("optimizer", Precision, "apply"),
    ("memory update", FeatureMemory, "update"),
]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def in_turn(functions: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What every function says, once a round."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            found[name].append(function())
    return found


def ratio(over: list[float], under: list[float]) -> float:
    """Median of the rounds' own ratios."""
    return statistics.median(a / b for a, b in zip(over, under))


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Time of a call, the device's work included."""
    wait(device)
    start = time.perf_counter()
    function()
    wait(device)
    return time.perf_counter() - start


def peak(function: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """MiB that a call needs beyond what was there before it, and all of the GPU's (or the process's) at its peak."""
    if device.type == "cpu":
        return process_peak(function)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / 2**20
    function()
    return torch.cuda.max_memory_allocated() / 2**20 - before, torch.cuda.max_memory_allocated() / 2**20


@dataclass
class Run:
    """A run as the trainer sets it up, its handlers attached, in the middle of its last epoch."""

    cfg: CfgNode
    ranks: Ranks
    engine: Engine
    data: Data
    method: Method
    done: int = 0  # steps

    def __post_init__(self) -> None:
        for epoch in range(1, self.cfg.SOLVER.EPOCHS + 1):
            self.method.prepare(epoch)
        memory = self.method.state.get("memory")
        if isinstance(memory, FeatureMemory) and not memory.features.any():
            fill(memory)
        self.done = len(self.data.streams) * (self.cfg.SOLVER.EPOCHS - 1) + 1

    def feed(self) -> Iterator[dict[str, Batch]]:
        """The product's batches, from the decoded store."""
        self.data.streams.start(self.done)
        return on_device(self.data.streams, self.ranks.device)

    def limit(self, steps: int) -> float:
        """Images/s of bare training steps on batches that already lie on the device."""
        batches = list(islice(self.feed(), 4))
        self.data.streams.close()
        state, start = self.engine.state, 0.0
        state.iteration, state.epoch = self.done, self.cfg.SOLVER.EPOCHS
        for step in range(-WARM, steps):
            if step == 0:
                wait(self.ranks.device)
                start = time.perf_counter()
            state.iteration += 1
            self.method.train_step(self.engine, batches[step % 4])
        wait(self.ranks.device)
        self.done = state.iteration
        return self.cfg.DATALOADER.BATCH_SIZE * steps / (time.perf_counter() - start)

    def loop(self, steps: int, feed: Any = None, warm: int = WARM, tool: profile | None = None) -> float:
        """Images/s of the engine's loop with all handlers; ``tool`` looks on while the clock runs."""
        marks: list[float] = []
        first = self.done + warm

        def mark(engine: Engine) -> None:
            if engine.state.iteration == first:
                wait(self.ranks.device)
                if tool:
                    tool.start()
                marks.append(time.perf_counter())
            elif engine.state.iteration == first + steps:
                wait(self.ranks.device)
                marks.append(time.perf_counter())
                if tool:
                    tool.stop()
                engine.terminate()

        length, epochs = len(self.data.streams), self.cfg.SOLVER.EPOCHS
        place = {"iteration": self.done, "epoch_length": length, "max_epochs": epochs}
        with self.engine.add_event_handler(Events.ITERATION_COMPLETED, mark):
            self.engine.load_state_dict(place)
            self.engine.run(feed or self.feed(), max_epochs=epochs, epoch_length=length)
        self.data.streams.close()
        self.done = self.engine.state.iteration
        return self.cfg.DATALOADER.BATCH_SIZE * steps / (marks[1] - marks[0])

    def per_sample(self, steps: int, workers: int) -> float:
        """Images/s of the same loop when worker processes decode and augment every image by itself."""
        domains: Any = self.data.domains
        ready = {k: replace(d, transform=lambda images, *_: images) for k, d in domains.items()}
        feed: Any = on_device(per_sample_feed(self, workers), self.ranks.device)
        with mock.patch.dict(domains, ready), contextlib.closing(feed):
            return self.loop(steps, feed, warm=WARM + workers)


def fill(memory: FeatureMemory) -> None:
    """Random L2-normalised rows."""
    memory.features.normal_().div_(memory.features.norm(dim=1, keepdim=True))


def in_trainer(cfg: CfgNode, ranks: Ranks, measure: Callable[[Run], Any]) -> Any:
    """What ``measure`` says of a run that the trainer has set up; it stands in for the trainer's own epochs."""
    found: list[Any] = []
    attach = Handlers.attach
    gc.collect()  # a run before this one, so that its memory is not counted

    def note(handlers: Handlers, engine: Engine) -> None:
        attach(handlers, engine)
        found.append(handlers)

    def instead(engine: Engine, data: Data, *_: object) -> None:
        found.append(measure(Run(cfg, ranks, engine, data, found[0].method)))

    def marked(cfg: CfgNode, loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return record_function("loss")(compiled(cfg, loss))  # a step keeps the losses it was built with

    patches = (Handlers, "attach", note), (trainer, "_train", instead), (camera_aware, "compiled", marked)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(mock.patch.object(*patch))
        trainer.run(cfg, ranks)
    return found[1]


class PerSample(Dataset[tuple[Tensor, int, int, int]]):
    """One image at a time, as the field's frameworks do it."""

    def __init__(self, split: Split, cfg: CfgNode) -> None:
        self.split, o = split, cfg.INPUT
        crop = tv.RandomCrop(o.SIZE, padding=o.PAD, fill=tuple(o.PAD_VALUE * (3 // len(o.PAD_VALUE))))
        steps = [tv.Resize(o.SIZE), tv.RandomHorizontalFlip(o.FLIP), crop, tv.ToTensor()]
        erase = tv.RandomErasing(o.ERASE, tuple(o.ERASE_AREA))
        self.transform = tv.Compose([*steps, tv.Normalize(o.MEAN, o.STD), erase])

    def __getitem__(self, row: int) -> tuple[Tensor, int, int, int]:
        with Image.open(self.split.paths[row]) as image:
            pixels = self.transform(image.convert("RGB"))
        return pixels, int(self.split.pids[row]), int(self.split.cams[row]), row


def per_sample_feed(run: Run, workers: int) -> Iterator[dict[str, Batch]]:
    """The batches of an epoch from one ``DataLoader`` a domain, which share the workers."""
    loaders = {
        name: DataLoader(
            PerSample(run.data.domains[name].images.split, run.cfg),
            batch_sampler=sampler.epoch(0).tolist(),
            num_workers=workers // len(run.data.samplers),
            collate_fn=lambda samples: Batch(*default_collate(samples)),
            pin_memory=run.ranks.device.type == "cuda",
        )
        for name, sampler in run.data.samplers.items()
    }
    for batches in zip(*loaders.values()):
        yield dict(zip(loaders, batches))


def shares(run: Run, steps: int, speed: float) -> dict[str, float]:
    """Share of a step's time by part; on a GPU of its busy time, and how ``busy`` it is at ``speed`` images/s."""
    gpu = run.ranks.device.type == "cuda"
    tool = profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * gpu, acc_events=True)
    with contextlib.ExitStack() as stack:
        for label, owner, name in RANGES:
            stack.enter_context(mock.patch.object(owner, name, record_function(label)(getattr(owner, name))))
        rate = run.loop(steps, tool=tool)
    host = [e for e in tool.events() if e.device_type == DeviceType.CPU]
    spent = dict.fromkeys((label for label, *_ in RANGES), 0.0)  # microseconds
    for e in host:
        if e.name in spent:
            spent[e.name] += e.device_time_total if gpu else e.cpu_time_total
    total, result = 1e6 * steps * run.cfg.DATALOADER.BATCH_SIZE / rate, {}
    if gpu:
        kernels = [e for e in tool.events() if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
        total = sum(e.device_time_total for e in kernels)
        main = next(e.thread for e in host if e.name == "data")
        others = [e for e in host if e.thread != main and e.cpu_parent is None]
        spent["backward"] += sum(e.device_time_total for e in others)  # launched by autograd's thread
        result["busy"] = total / 1e6 / steps * speed / run.cfg.DATALOADER.BATCH_SIZE
    spent["backward"] -= spent["optimizer"]  # inside Precision.step
    spent["rest"] = total - sum(spent.values())
    return {**result, **{name: value / total for name, value in spent.items()}}
