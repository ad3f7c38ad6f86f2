"""Which rows make up each batch: pure functions of (seed, epoch), the same global sequence for every world size.

A sampler draws the global epoch [num_batches, batch_size] and hands each rank its own columns of every batch. Epochs
count from 0; no position is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from crossreid.datasets.splits import DatasetError

Rows = NDArray[np.int64]


class Sampler(Protocol):
    """What ``Streams`` needs of a sampler."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int) -> Rows: ...


def generator(seed: int, *keys: int) -> np.random.Generator:
    """A random generator that depends on all the numbers given and on nothing else."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *keys])))


class _Sharded:
    """A rank's columns of every batch of an epoch."""

    num_batches: int

    def __init__(self, batch_size: int, rank: int, world_size: int, unit: int = 1) -> None:
        if not 0 <= rank < world_size:
            raise DatasetError(f"rank {rank} is not in 0..{world_size - 1}")
        if batch_size < 1 or batch_size % (world_size * unit):
            groups = f" and into identities of {unit} images" if unit > 1 else ""
            raise DatasetError(
                f"total batch size {batch_size} cannot be divided evenly over {world_size} processes{groups}"
            )
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size

    def global_epoch(self, epoch: int) -> Rows:
        raise NotImplementedError

    def epoch(self, epoch: int) -> Rows:
        """This rank's rows of every batch of an epoch [num_batches, batch_size / world_size]."""
        local = self.batch_size // self.world_size
        return self.global_epoch(epoch)[:, self.rank * local : (self.rank + 1) * local]

    def __len__(self) -> int:
        return self.num_batches


class ShuffledSampler(_Sharded):
    """Every item once in random order, in full batches; the incomplete rest of an epoch is left out.

    Args:
        num_items: N.
        batch_size: total over all ranks.
        num_batches: length of an epoch; default N // batch_size, at least 1. Where N does not fill it, items come
            again in a new order (so that a shorter domain fills the epoch of a longer one).
        rank, world_size: this process, and how many there are.
        seed: of the order.
    """

    def __init__(
        self,
        num_items: int,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        num_batches: int | None = None,
    ) -> None:
        super().__init__(batch_size, rank, world_size)
        if num_items < 1:
            raise DatasetError("a sampler needs at least one item")
        self.num_items, self.seed = num_items, seed
        self.num_batches = num_batches or max(1, num_items // batch_size)

    def global_epoch(self, epoch: int) -> Rows:
        needed = self.num_batches * self.batch_size
        passes = range(-(-needed // self.num_items))
        orders = [generator(self.seed, epoch, p).permutation(self.num_items) for p in passes]
        return np.concatenate(orders)[:needed].reshape(self.num_batches, self.batch_size)


class IdentitySampler(_Sharded):
    """P identities x K images a batch, the K images of an identity side by side and on one rank.

    Every identity comes once before any comes again; within a batch identities differ (unless there are fewer than
    P). Of an identity's images K different ones are drawn; where it has fewer, all of them, and then again. With
    ``cams``, after a first random image those from other cameras than the first one's come before those from its own.

    Args:
        pids: [N] identity of each item; items with a negative one are never drawn.
        identities: P, over all ranks.
        images: K.
        cams: [N] cameras, for the camera-aware choice.
        num_batches: length of an epoch; default identities present // P, at least 1.
        rank, world_size, seed: as in ``ShuffledSampler``.

    Source: the "multiple gallery" sampler of SpCL (Ge et al., NeurIPS 2020) and M3L (Zhao et al., CVPR 2021); those
    repeat images of other cameras where this one goes on to further images of the first one's camera.
    """

    def __init__(
        self,
        pids: NDArray[np.int64],
        identities: int,
        images: int,
        *,
        cams: NDArray[np.int64] | None = None,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        num_batches: int | None = None,
    ) -> None:
        super().__init__(identities * images, rank, world_size, images)
        pids = np.asarray(pids)
        order = np.argsort(pids, kind="stable")
        order = order[pids[order] >= 0]
        if len(order) == 0:
            raise DatasetError("an identity sampler needs at least one item with an identity")
        starts = np.flatnonzero(np.diff(pids[order])) + 1
        self._members = np.split(order, starts)
        self._cams = None if cams is None else np.asarray(cams)
        self.identities, self.images, self.seed = identities, images, seed
        self.num_batches = num_batches or max(1, len(self._members) // identities)

    def global_epoch(self, epoch: int) -> Rows:
        drawn = self._identities(epoch)
        random = generator(self.seed, epoch, 0)
        rows = np.stack([self._draw(self._members[identity], random) for identity in drawn])  # [slots, K]
        return rows.reshape(self.num_batches, self.batch_size)

    def _identities(self, epoch: int) -> Rows:
        """The identities of an epoch [num_batches * P], whole batches from each random order."""
        count, needed = len(self._members), self.num_batches * self.identities
        usable = count // self.identities * self.identities or count
        passes = range(-(-needed // usable))
        orders = [generator(self.seed, epoch, 1, p).permutation(count)[:usable] for p in passes]
        return np.concatenate(orders)[:needed]

    def _draw(self, members: Rows, random: np.random.Generator) -> Rows:
        order = random.permutation(members)
        if self._cams is not None:
            cams = self._cams[order]
            rest = np.argsort(cams[1:] == cams[0], kind="stable") + 1  # other cameras first
            order = order[np.concatenate([[0], rest])]
        return np.resize(order, self.images)  # repeats from the start where there are fewer


class PartnerSampler(_Sharded):
    """Images in random order, each beside K - 1 random images of its identity, which may be itself, on one rank.

    Args:
        pids: [N] identity of each item.
        anchors: images in a batch before their partners are counted, over all ranks.
        images: K.
        num_batches: length of an epoch; default N // anchors, at least 1.
        rank, world_size, seed: as in ``ShuffledSampler``.

    Source: the pairs of PAUL's stage 1 (Yang et al., CVPR 2019).
    """

    def __init__(
        self,
        pids: NDArray[np.int64],
        anchors: int,
        images: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        num_batches: int | None = None,
    ) -> None:
        super().__init__(anchors * images, rank, world_size, images)
        if not len(pids):
            raise DatasetError("a sampler needs at least one item")
        numbers, self._counts = np.unique(pids, return_inverse=True, return_counts=True)[1:]
        self._identity, self._order = numbers.reshape(-1), np.argsort(pids, kind="stable")
        self._starts = np.cumsum(self._counts) - self._counts  # of each identity in the order
        self.anchors, self.images, self.seed = anchors, images, seed
        self.num_batches = num_batches or max(1, len(pids) // anchors)

    def global_epoch(self, epoch: int) -> Rows:
        needed, items = self.num_batches * self.anchors, len(self._identity)
        passes = range(-(-needed // items))
        rows = np.concatenate([generator(self.seed, epoch, p).permutation(items) for p in passes])[:needed]
        share = generator(self.seed, epoch, 0, 1).random((needed, self.images - 1))
        identity = self._identity[rows][:, None]
        place = self._starts[identity] + (share * self._counts[identity]).astype(np.int64)
        groups = np.concatenate([rows[:, None], self._order[place]], axis=1)  # [anchors, K]
        return groups.reshape(self.num_batches, self.batch_size)


class RelabelledSampler:
    """P identities x K images of the labels as they stand when an epoch begins; rows labelled -1 are never drawn.

    Args:
        labels: gives [N] labels, the same on every rank; asked once an epoch.
        identities, images: P over all ranks, and K.
        num_batches: length of an epoch.
        cams, rank, world_size, seed: as in ``IdentitySampler``.
    """

    relabelled = True

    def __init__(
        self,
        labels: Callable[[], NDArray[np.int64]],
        identities: int,
        images: int,
        *,
        num_batches: int,
        **more: Any,
    ) -> None:
        self.labels, self.num_batches = labels, num_batches
        self._identities, self._images, self._more = identities, images, more

    def __len__(self) -> int:
        return self.num_batches

    def epoch(self, epoch: int) -> Rows:
        """This rank's rows of every batch of an epoch [num_batches, P K / world_size], from the labels of now."""
        sampler = IdentitySampler(
            self.labels(), self._identities, self._images, num_batches=self.num_batches, **self._more
        )
        return sampler.epoch(epoch)


class StyledSampler:
    """Shows each row of another sampler as itself or as one of its camera-style copies, all equally likely.

    Args:
        sampler: draws rows of the split.
        choices: [N, C] rows of the dataset that show each image (``ImageDataset.choices``).
        seed: of the choice.
    """

    def __init__(
        self, sampler: ShuffledSampler | IdentitySampler | PartnerSampler, choices: Rows, *, seed: int = 0
    ) -> None:
        self.sampler, self.choices, self.seed = sampler, choices, seed

    def __len__(self) -> int:
        return len(self.sampler)

    def epoch(self, epoch: int) -> Rows:
        everyone = self.sampler.global_epoch(epoch)
        drawn = generator(self.seed, epoch, 2).integers(self.choices.shape[1], size=everyone.shape)
        local = everyone.shape[1] // self.sampler.world_size
        columns = slice(self.sampler.rank * local, (self.sampler.rank + 1) * local)
        return self.choices[everyone[:, columns], drawn[:, columns]]
