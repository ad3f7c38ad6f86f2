"""Runs a function on several gloo ranks of this machine and returns what each rank returned."""

from __future__ import annotations

import datetime
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.processes import CONTEXT


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _worker(
    rank: int, function: Callable[..., Any], world: int, port: int, out: str, args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world))
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=90))
    try:
        torch.save(function(rank, world, *args), Path(out) / f"{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def run_ranks(function: Callable[..., Any], world: int, *args: Any) -> list[Any]:
    """Call ``function(rank, world, *args)`` on ``world`` gloo processes.

    ``function`` must be defined at the top of a test module. A rank that fails fails the test with its traceback.
    """
    with tempfile.TemporaryDirectory() as out:
        worker_args = (function, world, free_port(), out, args)
        mp.start_processes(_worker, worker_args, world, start_method=CONTEXT.get_start_method())
        return [torch.load(Path(out) / f"{r}.pt", weights_only=False) for r in range(world)]
