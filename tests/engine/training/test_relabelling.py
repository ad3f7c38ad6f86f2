"""Labels that change every epoch: each batch is drawn by the labels that ``prepare`` made for its epoch."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from crossreid.engine.distributed import Ranks
from crossreid.engine.training import prefetch
from crossreid.engine.training.handlers import Handlers, Stopped
from tests import relabelling_method as toy
from tests.ranks import run_ranks
from tests.tiny import differences, overrides, train

STEPS = 3  # an epoch


def arguments(domains: Path, out: Path, *more: str) -> list[str]:
    toyed = [
        "METHOD",
        "tests.relabelling_method",
        "DATASETS.SOURCES",
        "[]",
        "DATASETS.TARGET",
        "synthetic:winter",
    ]
    return overrides(domains, out, *toyed, "DATALOADER.BATCH_SIZE", "8", "SOLVER.EPOCHS", "3", *more)


def check(seen: list[tuple[int, list[int], list[int]]], count: int, instances: int = 2) -> None:
    for step, index, labels in seen:
        wanted = toy.labels_of((step - 1) // STEPS + 1, count)
        assert labels == wanted[index].tolist(), f"step {step}"
        assert min(labels) >= 0
        groups = torch.tensor(labels).view(-1, instances)
        assert (groups == groups[:, :1]).all()  # drawn by these labels: K side by side


def images(out: Path) -> int:
    return len(torch.load(out / "checkpoints/demo/last.pt", weights_only=True)["labels"]["labels"])


@pytest.mark.parametrize("cache", ["disk", "'off'"])
def test_labels_of_an_epoch_are_those_that_prepare_made(cache: str, domains: Path, tmp_path: Path) -> None:
    toy.SEEN.clear()
    train("configs/demo.yml", arguments(domains, tmp_path, "DATASETS.CACHE", cache))
    assert [step for step, *_ in toy.SEEN] == list(range(1, 3 * STEPS + 1))
    check(toy.SEEN, images(tmp_path))


def test_with_copies_running_ahead_on_a_device_stream(
    domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ahead(streams: Any, device: torch.device, *, pause: Any) -> Any:
        """The loop of a GPU: the next batch is fetched before one is handed out, unless it must wait."""
        source, following = iter(streams), None
        while True:
            batch = following or next(source)
            following = None if pause() else next(source)
            yield batch

    monkeypatch.setattr("crossreid.engine.training.trainer.on_device", ahead)
    toy.SEEN.clear()
    train("configs/demo.yml", arguments(domains, tmp_path))
    check(toy.SEEN, images(tmp_path))


def test_a_gpu_does_not_fetch_ahead_at_an_epochs_end(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []

    def source() -> Any:
        for i in range(4):
            fetched.append(i)
            yield {"a": i}

    class Stream:
        def wait_stream(self, other: Any) -> None: ...

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(prefetch, "_copied", lambda source, device, side: next(source, None))
    monkeypatch.setattr(prefetch, "vars", lambda batch: {}, raising=False)
    found = prefetch.on_device(source(), torch.device("cuda", 0), pause=lambda: len(fetched) == 2)
    assert next(found) == {"a": 0}
    assert fetched == [0, 1]
    assert next(found) == {"a": 1}
    assert fetched == [0, 1]  # the epoch ends here
    assert next(found) == {"a": 2}
    assert fetched == [0, 1, 2, 3]


def test_a_resume_in_mid_epoch_goes_on_with_its_labels(
    domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("configs/demo.yml", arguments(domains, tmp_path / "straight"))
    original = Handlers.seed_step

    def stopping(self: Handlers, engine: Any) -> None:
        original(self, engine)
        if engine.state.iteration == STEPS + 2:  # within the second epoch
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Handlers, "seed_step", stopping)
    with pytest.raises(Stopped):
        train("configs/demo.yml", arguments(domains, tmp_path / "broken"))
    monkeypatch.undo()
    toy.SEEN.clear()
    train("configs/demo.yml", arguments(domains, tmp_path / "broken", "RESUME", "auto"))
    assert toy.SEEN[0][0] == STEPS + 3
    check(toy.SEEN, images(tmp_path / "broken"))
    ends = [
        torch.load(tmp_path / f"{name}/checkpoints/demo/last.pt", weights_only=True)
        for name in ("straight", "broken")
    ]
    for end in ends:
        end.pop("config")
    assert differences(*ends) == []


def _rank(rank: int, world: int, domains: Path, out: Path) -> list[Any]:
    toy.SEEN.clear()
    train("configs/demo.yml", arguments(domains, out), Ranks(rank, world, torch.device("cpu")))
    return toy.SEEN


@pytest.mark.ddp
def test_two_ranks_share_the_batches_of_one(domains: Path, tmp_path: Path) -> None:
    toy.SEEN.clear()
    train("configs/demo.yml", arguments(domains, tmp_path / "one"))
    alone = list(toy.SEEN)
    first, second = run_ranks(_rank, 2, domains, tmp_path / "two")
    check(first, images(tmp_path / "two"))
    assert [(s, i + j, p + q) for (s, i, p), (_, j, q) in zip(first, second)] == alone
