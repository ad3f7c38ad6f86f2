"""Several machines: what the environment says, two agents on loopback, and messages when they do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossreid.engine.distributed import Nodes, read_nodes
from crossreid.engine.errors import InputError
from tests.processes import Command
from tests.ranks import free_port
from tests.tiny import overrides


def test_environment_of_several_machines() -> None:
    assert read_nodes({}) == read_nodes({"NNODES": "1", "NODE_RANK": "7"}) == Nodes(1, 0, "")
    found = read_nodes({"NNODES": "4", "NODE_RANK": "3", "RDZV_ENDPOINT": "node-0:29500"})
    assert found == Nodes(4, 3, "node-0:29500")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"NNODES": "two"}, "NNODES is 'two'"),
        ({"NNODES": "0"}, "NNODES is '0'"),
        ({"NNODES": "2", "RDZV_ENDPOINT": "a:1"}, "NODE_RANK is ''.*0 to 1"),
        ({"NNODES": "2", "NODE_RANK": "2", "RDZV_ENDPOINT": "a:1"}, "NODE_RANK is '2'"),
        ({"NNODES": "2", "NODE_RANK": "0"}, "RDZV_ENDPOINT is ''"),
        ({"NNODES": "2", "NODE_RANK": "0", "RDZV_ENDPOINT": "a"}, "host:port"),
    ],
)
def test_what_does_not_fit_is_named(environment: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_nodes(environment)


def start(domains: Path, out: Path, node: int, port: int, *more: str) -> Command:
    words = ["train", "--devices", "cpu", "configs/demo.yml"]
    words += overrides(domains, out, "CAMERA_AWARE.SOURCE_EPOCHS", "1", *more)
    return Command(
        words, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo", NNODES="2", NODE_RANK=str(node),
        RDZV_ENDPOINT=f"127.0.0.1:{port}",
    )  # fmt: skip


def finish(*agents: Command) -> list[str]:
    """What the agents told; none outlives the test."""
    try:
        return [agent.communicate(timeout=180)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()


@pytest.mark.slow
@pytest.mark.ddp
def test_a_bad_key_ends_both_machines_in_one_line(domains: Path, tmp_path: Path) -> None:
    port = free_port()
    agents = [start(domains, tmp_path, node, port, "DATALOADER.BATCH_SIZE", "6") for node in (0, 1)]
    told = finish(*agents)
    assert [agent.returncode for agent in agents] == [2, 2], told
    assert all("2 processes" in text and "Traceback" not in text for text in told)
