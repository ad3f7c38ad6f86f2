"""Two machines on loopback: agents that meet by NNODES, NODE_RANK and RDZV_ENDPOINT, each with folders of its own.

Their run is interrupted by a signal to the second machine and resumed; it must end as an unbroken
``--devices cpu:2`` does.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from crossreid import configs
from crossreid.engine.distributed import Ranks
from crossreid.engine.errors import InputError
from crossreid.engine.training.trainer import run
from crossreid.modeling.weights import read_checkpoint
from tests.processes import Command
from tests.ranks import free_port, run_ranks
from tests.tiny import differences, overrides

pytestmark = [pytest.mark.ddp, pytest.mark.slow]

# Mixup, the memory's first pass and both neighbourhood losses are in play: all that ranks exchange.
EXAMPLE = ["CAMERA_AWARE.SOURCE_EPOCHS", "1", "CAMERA_AWARE.MIXUP", "true", "CAMERA_AWARE.INTRA_START", "1"]
EXAMPLE += ["CAMERA_AWARE.INTER_START", "1", "CAMERA_AWARE.MIXUP_START", "1", "SOLVER.EPOCHS", "3"]
EXAMPLE += ["DATALOADER.ITERS_PER_EPOCH", "12", "LOG.PERIOD", "1"]


def start(domains: Path, out: Path, devices: str, *more: str, **variables: str) -> Command:
    words = ["train", "--devices", devices, "configs/demo.yml", *overrides(domains, out, *EXAMPLE, *more)]
    return Command(words, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo", **variables)


def start_machines(domains: Path, outs: list[Path], *more: str) -> list[Command]:
    """One agent a folder; the last machine starts first, so that order of arrival cannot give the ranks."""
    port, count = free_port(), str(len(outs))
    variables = {"NNODES": count, "RDZV_ENDPOINT": f"127.0.0.1:{port}"}
    nodes = [(node, out) for node, out in enumerate(outs)]
    agents = [
        start(domains, out, "cpu", *more, NODE_RANK=str(node), **variables) for node, out in nodes[::-1]
    ]
    return agents[::-1]


def finish(processes: list[Command]) -> list[str]:
    """What the processes told; none outlives the test."""
    try:
        return [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()


def checkpoint(out: Path, name: str) -> dict[str, object]:
    content = read_checkpoint(out / "checkpoints" / "demo" / name)
    content.pop("config")  # holds OUTPUT_DIR
    return content


def metrics(out: Path) -> str:
    file = out / "logs" / "demo" / "metrics.jsonl"
    return file.read_text() if file.is_file() else ""


@dataclass
class Machines:
    """Folders of both machines; what they told and their exit codes, in the broken and in the resumed run."""

    outs: list[Path]
    told: list[list[str]] = field(default_factory=list)
    codes: list[list[int]] = field(default_factory=list)
    broken_after: int = 0  # steps

    def end(self, agents: list[Command]) -> None:
        self.told.append(finish(agents))
        self.codes.append([agent.returncode for agent in agents])


@pytest.fixture(scope="module")
def machines(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Machines:
    pair = Machines([tmp_path_factory.mktemp(f"machine-{node}") for node in (0, 1)])
    agents = start_machines(domains, pair.outs)
    deadline = time.monotonic() + 120
    while '"step": 15,' not in metrics(pair.outs[0]) and time.monotonic() < deadline:
        if any(agent.poll() is not None for agent in agents):
            break
        time.sleep(0.01)
    agents[1].send_signal(signal.SIGTERM)
    pair.end(agents)
    pair.broken_after = checkpoint(pair.outs[0], "last.pt")["engine"]["iteration"]
    saved = pair.outs[0] / "checkpoints" / "demo" / "last.pt"
    pair.end(start_machines(domains, pair.outs, "RESUME", str(saved)))
    return pair


def test_a_signal_to_one_machine_saves_and_stops_both(machines: Machines) -> None:
    assert machines.codes[0] == [143, 143], machines.told[0]
    assert 15 <= machines.broken_after < 36, "the test must break the run in its middle"


def test_both_end_well_and_machine_0_alone_writes(machines: Machines) -> None:
    assert machines.codes[1] == [0, 0], machines.told[1]
    first, second = machines.told[1]
    assert "2 processes" in first
    assert "results" in first
    assert "results" not in second
    saved = machines.outs[0] / "checkpoints" / "demo"
    assert sorted(path.name for path in saved.iterdir()) == ["best.pt", "last.pt"]
    assert list(machines.outs[1].iterdir()) == []


def test_checkpoints_are_those_of_two_processes_on_one_machine(
    machines: Machines, domains: Path, tmp_path: Path
) -> None:
    process = start(domains, tmp_path, "cpu:2")
    (told,) = finish([process])
    assert process.returncode == 0, told
    assert checkpoint(tmp_path, "last.pt")["memory"]["features"].norm(dim=1).min() > 0.9  # it is in use
    for name in ("last.pt", "best.pt"):
        assert differences(checkpoint(machines.outs[0], name), checkpoint(tmp_path, name)) == []


def resume(rank: int, _: int, domains: Path, outs: list[Path]) -> str:
    """What a rank is told that looks for its checkpoint in a folder of its own."""
    cfg = configs.load("configs/demo.yml", overrides(domains, outs[rank], *EXAMPLE, "RESUME", "auto"))
    try:
        run(cfg, Ranks(rank, 2, torch.device("cpu")))
    except InputError as error:
        return str(error)
    return ""


def test_a_resume_that_the_machines_do_not_share_is_refused(machines: Machines, domains: Path) -> None:
    before = (machines.outs[0] / "checkpoints" / "demo" / "last.pt").read_bytes()
    for told in run_ranks(resume, 2, domains, machines.outs):
        assert "all machines must share OUTPUT_DIR" in told
    assert (machines.outs[0] / "checkpoints" / "demo" / "last.pt").read_bytes() == before
