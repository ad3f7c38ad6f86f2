"""Batches reach the device in order, one ahead on a GPU, and their memory is kept until the step has read it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from crossreid.datasets import Batch
from crossreid.engine.training import prefetch

CPU = torch.device("cpu")


def batches(count: int, told: list[Any] | None = None) -> Iterator[dict[str, Batch]]:
    for i in range(count):
        if told is not None:
            told.append(("read", i))
        numbers = torch.full((2,), i)
        yield {"source": Batch(torch.full((2, 3, 4, 2), i, dtype=torch.uint8), numbers, numbers, numbers)}


def test_on_the_cpu_each_batch_is_read_when_it_is_asked_for() -> None:
    told: list[Any] = []
    found = prefetch.on_device(batches(3, told), CPU)
    assert int(next(found)["source"].index[0]) == 0
    assert told == [("read", 0)]
    assert [int(b["source"].index[0]) for b in found] == [1, 2]


class FakeStream:
    def __init__(self, name: str, told: list[Any]) -> None:
        self.name, self.told = name, told

    def wait_stream(self, other: FakeStream) -> None:
        self.told.append((self.name, "waits for", other.name))


def test_on_a_gpu_the_next_copy_begins_before_a_batch_is_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    side, main = FakeStream("side", told), FakeStream("main", told)
    inside: list[str] = []

    @contextlib.contextmanager
    def on(stream: FakeStream) -> Iterator[None]:
        inside.append(stream.name)
        yield
        inside.pop()

    def to(batch: Batch, device: torch.device, non_blocking: bool) -> Batch:
        assert inside == ["side"]
        assert non_blocking
        told.append(("copy", int(batch.index[0])))
        return batch

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(Batch, "to", to)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda x, stream: told.append(("kept for", stream.name))
    )
    handed = []
    for batch in prefetch.on_device(batches(3), torch.device("cuda", 0)):
        told.append(("step", int(batch["source"].index[0])))
        handed.append(int(batch["source"].index[0]))
    assert handed == [0, 1, 2]
    kept = [("kept for", "main")] * 4  # images, pids, cams, index
    wait = ("main", "waits for", "side")
    assert told == [
        ("copy", 0), wait, *kept, ("copy", 1), ("step", 0), wait, *kept, ("copy", 2), ("step", 1), wait, *kept,
        ("step", 2),
    ]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_arrive_whole_on_a_gpu() -> None:
    device = torch.device("cuda", 0)
    pinned = ({"source": b["source"].pin_memory()} for b in batches(50))
    sums = []
    for batch in prefetch.on_device(pinned, device):
        torch.mm(torch.ones(2000, 2000, device=device), torch.ones(2000, 2000, device=device))
        sums.append(batch["source"].images.float().mean())
    assert torch.stack(sums).tolist() == list(range(50))
