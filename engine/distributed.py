"""Devices, ranks and what ranks do together."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn.functional
from numpy.typing import NDArray
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from crossreid.datasets.pool import available_cores
from crossreid.engine.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """This process among all that train together."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def bounds(self, rows: int, tile: int) -> tuple[int, int]:
        """First and last row of the own contiguous share, in whole tiles; no row belongs to two."""
        tiles = -(-rows // tile)
        first, last = (tiles * rank // self.world * tile for rank in (self.rank, self.rank + 1))
        return min(rows, first), min(rows, last)

    def total(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sum of the ranks' arrays of one shape, on all of them."""
        if self.world == 1:
            return values
        tensor = torch.from_numpy(values).to(self.device)
        dist.all_reduce(tensor)
        return tensor.cpu().numpy()

    def stack(self, values: torch.Tensor) -> torch.Tensor:
        """The ranks' tensors of one shape [ranks, ...], on all of them."""
        if self.world == 1:
            return values[None]
        own = values.to(self.device).contiguous()
        parts = own.new_empty(self.world * len(own), *own.shape[1:])
        dist.all_gather_into_tensor(parts, own)
        return parts.view(self.world, *own.shape)

    def gather(self, values: NDArray[Any]) -> NDArray[Any]:
        """The ranks' arrays [n_r] one after the other, on all of them."""
        if self.world == 1:
            return values
        parts: list[NDArray[Any]] = [values] * self.world
        dist.all_gather_object(parts, values)
        return np.concatenate(parts)


ALONE = Ranks(0, 1, torch.device("cpu"))  # a single process that shares with nobody


def group(distributed: bool) -> Ranks:
    """All ranks of the process group, or this process alone."""
    if not distributed:
        return ALONE
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def parse_devices(text: str) -> list[torch.device]:
    """The devices of this machine's processes: ``0,1``, ``cpu`` or ``cpu:2`` (two processes).

    Raises:
        InputError: something else, or GPUs that are not there.
    """
    name, colon, count = text.partition(":")
    if name == "cpu" and (not colon or (count.isdecimal() and int(count))):
        return [torch.device("cpu")] * int(count or 1)
    ids = text.split(",")
    if not all(i.strip().isdecimal() for i in ids) or len(set(ids)) != len(ids):
        raise InputError(f"devices {text!r} are not understood: give GPU ids like 0 or 0,1, or cpu, or cpu:2")
    found = torch.cuda.device_count()
    missing = [i for i in ids if int(i) >= found]
    if missing:
        have = (
            f"this machine has GPUs 0 to {found - 1}"
            if found
            else "this machine has no GPU that PyTorch can use"
        )
        raise InputError(f"no GPU {', '.join(missing)}: {have}; name existing ones, or cpu")
    return [torch.device("cuda", int(i)) for i in ids]


@dataclass(frozen=True)
class Nodes:
    """The machines that train together, this one among them."""

    count: int = 1
    rank: int = 0
    endpoint: str = ""  # host:port of machine 0


def read_nodes(environment: Mapping[str, str]) -> Nodes:
    """The machines that ``NNODES``, ``NODE_RANK`` and ``RDZV_ENDPOINT`` describe; without ``NNODES`` this one alone.

    Raises:
        InputError: a variable that is missing or makes no sense.
    """
    count = environment.get("NNODES", "1")
    if not count.isdigit() or not int(count):
        raise InputError(f"NNODES is {count!r}: give the number of machines, 1 or more")
    if int(count) == 1:
        return Nodes()
    rank, endpoint = environment.get("NODE_RANK", ""), environment.get("RDZV_ENDPOINT", "")
    if not rank.isdigit() or int(rank) >= int(count):
        raise InputError(f"NODE_RANK is {rank!r}: with NNODES {count} give a number, 0 to {int(count) - 1}")
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(
            f"RDZV_ENDPOINT is {endpoint!r}: give host:port of machine 0, on all {count} machines"
        )
    return Nodes(int(count), int(rank), endpoint)


def connect(devices: list[torch.device]) -> Ranks:
    """Join the process group that the launcher's environment describes; a single process joins none."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = devices[int(os.environ.get("LOCAL_RANK", 0))]
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif world > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, available_cores() // len(devices)))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Ranks(rank, world, device)


def disconnect() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def parallel(
    network: nn.Module,
    ranks: Ranks,
    *,
    sync_bn: bool = False,
    find_unused: bool = False,
    static: bool = False,
) -> nn.Module:
    """The network for training: itself, or wrapped so that gradients are averaged over ranks.

    Buffers are not broadcast: batch norm statistics are averaged when an epoch ends (``average_buffers``).

    Args:
        sync_bn: batch norm over the images of all ranks (GPUs).
        find_unused: some parameters take no part in some steps.
        static: the same parameters take part in every step, and each step synchronises (no accumulation).
    """
    if ranks.world == 1:
        return network
    if sync_bn:
        if ranks.device.type != "cuda":
            raise InputError("MODEL.SYNC_BN true needs GPUs: set it to false on the CPU")
        synchronise_batch_norms(network)
    ids = [ranks.device.index] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(
        network,
        ids,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        find_unused_parameters=find_unused,
        static_graph=static,
    )


def synchronise_batch_norms(network: nn.Module) -> None:
    """Let plain batch norms inside a network take their statistics over all ranks, in place.

    Norms of our own (split, meta) are left: they are other functions, and synchronise by an argument of theirs.
    """
    for name, child in network.named_children():
        if type(child) in (nn.BatchNorm1d, nn.BatchNorm2d):
            setattr(network, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        else:
            synchronise_batch_norms(child)


def synchronise_gradients(network: nn.Module, wanted: bool) -> None:
    """Whether the next backward pass averages gradients over ranks, or only adds to this rank's own."""
    if isinstance(network, DistributedDataParallel):
        network.require_backward_grad_sync = wanted  # what its ``no_sync`` sets


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside its parallel wrapper."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def gathered(rows: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """The rows of all ranks [world x B, ...] in rank order, differentiable (twice) in this rank's.

    A loss of all rows that every rank computes, averaged over the ranks, has the gradient of the one loss.
    """
    if ranks.world == 1:
        return rows
    if not rows.is_floating_point():
        parts = [torch.empty_like(rows) for _ in range(ranks.world)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)
    return torch.cat(torch.distributed.nn.functional.all_gather(rows.contiguous()))


@torch.no_grad()
def averaged(tensors: list[torch.Tensor], ranks: Ranks) -> list[torch.Tensor]:
    """Means over ranks of tensors of one type, in one reduction; the tensors themselves where there is one rank."""
    if ranks.world == 1 or not tensors:
        return tensors
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    parts = (flat / ranks.world).split([t.numel() for t in tensors])
    return [part.view_as(t) for part, t in zip(parts, tensors)]


@torch.no_grad()
def average_buffers(network: nn.Module, ranks: Ranks) -> None:
    """Give every rank the mean of the ranks' floating buffers (batch norm statistics)."""
    buffers = [b for b in network.buffers() if b.is_floating_point()]
    for buffer, mean in zip(buffers, averaged([b.double() for b in buffers], ranks)):
        buffer.copy_(mean)


def agree(value: int, ranks: Ranks) -> bool:
    """Whether all ranks have the same number."""
    if ranks.world == 1:
        return True
    values: list[int] = [0] * ranks.world
    dist.all_gather_object(values, value)
    return len(set(values)) == 1


def on_first(ranks: Ranks, function: Callable[[], Any]) -> Any:
    """What a function returns on the first rank, on every rank; its error of input is raised on every rank.

    Args:
        function: may take long, may not communicate; its result must be picklable.
    """
    if ranks.world == 1:
        return function()
    answer: list[Any] = [None, None]
    if ranks.first:
        try:
            answer[0] = function()
        except ValueError as error:  # InputError and its kin
            answer[1] = error
    dist.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def barrier(ranks: Ranks) -> None:
    if ranks.world > 1:
        dist.barrier()
