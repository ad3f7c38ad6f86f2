"""A signal as one answer of all ranks: they stop together, after the same step."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

import torch
import torch.distributed as dist

from crossreid.engine.distributed import Ranks


class StopRequest:
    """Turns SIGTERM and SIGINT into one answer on all ranks, without waiting for the device.

    A rank's wish travels with an asynchronous reduction over gloo that is read one step later, so that all ranks
    stop after the same step. A second signal acts as usual.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.signum = self._agreed = 0
        self._wish = torch.zeros(1, dtype=torch.int64)
        self._pending: dist.Work | None = None
        self._group = None
        if ranks.world > 1:
            self._group = dist.group.WORLD if ranks.device.type == "cpu" else dist.new_group(backend="gloo")
        self._previous: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pending is not None:
            self._pending.wait()  # no rank leaves while another still talks
            self._pending = None
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signum = number
        signal.signal(number, self._previous[number])

    def poll(self, *_: object) -> None:
        """Exchange wishes; every rank calls this once a step."""
        if self._group is None:
            self._agreed = self.signum
            return
        if self._pending is not None:
            self._pending.wait()
            self._agreed = self._agreed or int(self._wish)  # on the CPU: no device is waited for
        self._wish = torch.tensor([self.signum])
        self._pending = dist.all_reduce(self._wish, dist.ReduceOp.MAX, group=self._group, async_op=True)

    def agreed(self) -> int:
        """The signal on which all ranks stop now, or 0: the same answer everywhere until the next poll."""
        return self._agreed
