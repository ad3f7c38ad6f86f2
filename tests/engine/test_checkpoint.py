"""Checkpoints that do not fit are refused with the key named; what a killed process left is removed."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from crossreid.engine import checkpoint, files
from crossreid.engine.distributed import ALONE
from crossreid.engine.errors import USER_ERRORS, InputError
from crossreid.engine.training.target import EvaluationHistory
from crossreid.modeling.cluster_memory import ClusterMemory
from crossreid.modeling.memory import FeatureMemory
from crossreid.modeling.pseudo_labels import PseudoLabels


def objects(make: Callable[..., Optimizer] = AdamW, **options: Any) -> dict[str, Any]:
    """A run's state after one step."""
    torch.default_generator.manual_seed(0)  # torch.manual_seed walks the whole stack for CUDA's sake
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = make(network.parameters(), lr=0.1, **options)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    network(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    schedule.step()
    history = EvaluationHistory(0.5, [{"epoch": 1, "title": "training", "mAP": 0.5}], {"density": 0.1})
    history.clusters = torch.tensor([0, -1])
    return {
        "model": network,
        "optimizer": optimizer,
        "scheduler": schedule,
        "scaler": torch.amp.GradScaler("cpu", enabled=False),
        "memory": FeatureMemory(3, 2),
        "clusters": ClusterMemory(2, torch.device("cpu")),
        "labels": PseudoLabels(4),
        "progress": history,
    }


def place(content: Any, keys: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A copy with another value at a place; the value may be a function of the old one."""
    content = copy.deepcopy(content)
    node = content
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value(node[keys[-1]]) if callable(value) else value
    return content


@pytest.mark.parametrize("options", [{"make": AdamW}, {"make": SGD, "momentum": 0.9}, {"make": SGD}])
def test_whole_state_is_restored(options: dict[str, Any], tmp_path: Path) -> None:
    before, now = objects(**options), objects(**options)
    with torch.no_grad():
        for name in ("model", "memory"):
            for tensor in before[name].state_dict().values():
                tensor.add_(1)
    checkpoint.save(tmp_path / "last.pt", checkpoint.collect(before))
    checkpoint.restore(now, checkpoint.read_checkpoint(tmp_path / "last.pt"), "last.pt")
    for name in ("model", "memory"):
        for key, tensor in before[name].state_dict().items():
            assert torch.equal(now[name].state_dict()[key], tensor)
    assert now["scheduler"].last_epoch == 1


TENSORS = [
    ("model", "0.weight"), ("model", "1.running_mean"), ("model", "1.num_batches_tracked"), ("memory", "features"),
    ("clusters", "features"), ("labels", "labels"), ("optimizer", "state", 0, "exp_avg"),
    ("optimizer", "state", 3, "exp_avg_sq"), ("optimizer", "state", 1, "step"), ("progress", "clusters"),
]  # fmt: skip


@pytest.mark.parametrize("keys", TENSORS, ids=lambda keys: ".".join(map(str, keys)))
@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.half() if t.is_floating_point() else t.float(),
        lambda t: t.double() if t.is_floating_point() else t.int(),
        lambda t: t[:1].squeeze(0) if t.dim() else t[None],
        lambda t: t.expand(2, *t.shape).contiguous(),
        lambda t: t.tolist(),
        "text",
    ],
    ids=["float", "wider", "smaller", "larger", "list", "text"],
)
def test_another_type_or_shape_is_refused_by_name(keys: tuple[Any, ...], change: Any) -> None:
    state = objects()
    content = checkpoint.collect(state)
    with pytest.raises(USER_ERRORS) as refused:
        checkpoint.restore(state, place(content, keys, change), "last.pt")
    told = str(refused.value)
    assert keys[0] in told
    assert str(keys[-1]) in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("model",), 3),
        (("optimizer",), []),
        (("optimizer", "state"), None),
        (("optimizer", "state", 0), {}),
        (("optimizer", "param_groups"), []),
        (("optimizer", "param_groups", 0, "lr"), "fast"),
        (("optimizer", "param_groups", 0, "lr"), float("nan")),
        (("optimizer", "param_groups", 0, "betas"), (0.9,)),
        (("optimizer", "param_groups", 0, "params"), [0, 1]),
        (("scheduler",), 1),
        (("scheduler", "last_epoch"), 1.5),
        (("optimizer", "param_groups", 0, "params", 1), 0),
        (("optimizer", "param_groups", 0, "betas"), [0, 2]),
        (("scheduler", "base_lrs"), [0.1, 0.1]),
        (("scheduler", "lr_lambdas"), {"": 0}),
        (("scheduler", "last_epoch"), -1025),
        (("scheduler", "_last_lr"), None),
        (("scaler",), "none"),
        (("progress",), None),
        (("progress", "best"), "high"),
        (("progress", "history"), {}),
        (("progress", "history", 0), "training"),
        (("progress", "history", 0, "epoch"), True),
        (("progress", "history", 0, "mAP"), torch.ones(1)),
        (("progress", "selected"), {"density": None}),
    ],
)
def test_a_malformed_field_is_one_line(keys: tuple[Any, ...], value: Any) -> None:
    state = objects()
    content = place(checkpoint.collect(state), keys, value)
    with pytest.raises(USER_ERRORS, match=keys[0]) as refused:
        checkpoint.restore(state, content, "last.pt")
    assert "\n" not in str(refused.value)
    del content[keys[0]]
    with pytest.raises(InputError, match=f"holds no {keys[0]}"):
        checkpoint.restore(state, content, "last.pt")


@pytest.mark.parametrize("keys", [("state", 7), ("state", "0")])
def test_state_of_no_parameter_is_refused(keys: tuple[Any, ...]) -> None:
    state = objects()
    content = checkpoint.collect(state)
    content["optimizer"]["state"] = {**content["optimizer"]["state"], keys[1]: {}}
    with pytest.raises(InputError, match=f"state.{keys[1]} is of no parameter"):
        checkpoint.restore(state, content, "last.pt")


def test_an_older_torch_has_other_keys() -> None:
    state = objects()
    content = checkpoint.collect(state)
    group = content["optimizer"]["param_groups"][0]
    for key in ("fused", "decoupled_weight_decay", "foreach"):
        group.pop(key, None)
    content["scheduler"].pop("_is_initial", None)
    content["scheduler"]["step"] = "an attribute of a later version"
    checkpoint.restore(state, content, "last.pt")
    state["optimizer"].step()
    state["scheduler"].step()


@pytest.mark.parametrize(
    "saved", [3, [], [{}], [{"1.running_mean": torch.zeros(4)}], [{"1.running_mean": torch.zeros(1)}], ["x"]]
)
def test_buffers_of_ranks(saved: Any) -> None:
    network = objects()["model"]
    with pytest.raises(InputError, match=r"last\.pt \(rank_buffers\)"):
        checkpoint.restore_buffers(network, saved, ALONE, "last.pt")
    own = {name: value + 2 for name, value in checkpoint.rank_buffers(network, ALONE)[0].items()}
    checkpoint.restore_buffers(network, [own], ALONE, "last.pt")
    assert torch.equal(network.state_dict()["1.running_mean"], own["1.running_mean"])
    checkpoint.restore_buffers(network, [own, {k: v + 1 for k, v in own.items()}], ALONE, "last.pt")
    assert torch.equal(network.state_dict()["1.running_mean"], own["1.running_mean"] + 0.5)


def test_temporary_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    dead = tmp_path / f".last.pt.{int(done.stdout)}.tmp"
    alive = tmp_path / f".last.pt.{os.getppid()}.tmp"
    others = [tmp_path / "last.pt", tmp_path / ".notes.tmp", alive]
    for file in (dead, *others):
        file.touch()
    files.remove_stale(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 1})

    def full(file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        files.write_whole(path, full)
    assert checkpoint.read_checkpoint(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_bytes_and_folder_reach_the_disk_around_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    synchronise, rename = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        order.append("folder" if Path(f"/proc/self/fd/{handle}").resolve() == tmp_path.resolve() else "file")
        synchronise(handle)

    def replace(path: Path, target: Path) -> Path:
        order.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    checkpoint.save(tmp_path / "last.pt", {})
    assert order == ["file", "rename", "folder"]
