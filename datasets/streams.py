"""Iterate several datasets in parallel, endlessly: ``{"source": Batch, "target": Batch}`` an iteration.

The position is one integer, the number of iterations that the trainer has finished: nothing else has to be saved or
restored. Batches are prepared ahead in a background thread; from a decoded store that is only a gather of bytes.
"""

from __future__ import annotations

import itertools
import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from crossreid.datasets.images import ImageDataset
from crossreid.datasets.raw_crops import RawCrops
from crossreid.datasets.samplers import Rows, Sampler
from crossreid.datasets.splits import Batch, DatasetError

Batches = dict[str, Batch]
Shown = ImageDataset | RawCrops


class _Plan:
    """Rows of any iteration; keeps the epoch in use at hand."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler, self._epoch = sampler, -1
        self._rows: Rows = np.zeros((0, 0), np.int64)

    def __call__(self, iteration: int) -> Rows:
        epoch, batch = divmod(iteration, len(self._sampler))
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._sampler.epoch(epoch)
        return np.asarray(self._rows[batch], np.int64)


class _Plans:
    """Batch sampler for a ``DataLoader``: ``count`` batches from some iteration on, or no end of them."""

    def __init__(self, sampler: Sampler, start: int, count: int | None) -> None:
        self._sampler, self._start, self._count = sampler, start, count

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        plan, iterations = _Plan(self._sampler), itertools.count(self._start)
        for iteration in itertools.islice(iterations, self._count):
            yield iteration, plan(iteration).tolist()


class _Carrier:
    """Runs in the workers: an input error travels as a value, so that it arrives in one line."""

    def __init__(self, dataset: Shown) -> None:
        self._dataset = dataset

    def __getitems__(self, plan: tuple[int, list[int]]) -> Batch | DatasetError:
        iteration, rows = plan
        try:
            return self._dataset.batch(rows, iteration)
        except DatasetError as error:
            return error

    def __getitem__(self, plan: tuple[int, list[int]]) -> Batch | DatasetError:
        return self.__getitems__(plan)


def _whole(batch: Any) -> Any:
    return batch


def _from_workers(
    dataset: Shown, sampler: Sampler, start: int, count: int | None, workers: int, pin: bool
) -> Iterator[Batch]:
    loader: DataLoader[Any] = DataLoader(
        _Carrier(dataset),  # type: ignore[arg-type]
        batch_sampler=_Plans(sampler, start, count),  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_whole,
        prefetch_factor=2,
    )
    for batch in loader:
        if isinstance(batch, DatasetError):
            raise batch
        yield batch.pin_memory() if pin else batch


def _from_store(dataset: Shown, sampler: Sampler, start: int, pin: bool) -> Iterator[Batch]:
    plan, iteration = _Plan(sampler), start
    while True:
        yield dataset.batch(plan(iteration), iteration, pin=pin)
        iteration += 1


def _produce(
    open_sources: Callable[[], dict[str, Iterator[Batch]]],
    ready: queue.Queue[Batches | Exception],
    stop: threading.Event,
    count: int | None,
) -> None:
    """Fill the queue with ``count`` items, or until told to stop; an exception is the last thing in it."""

    def put(item: Batches | Exception) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    try:
        sources = open_sources()
        done = 0
        while not stop.is_set() and done != count:
            put({name: next(source) for name, source in sources.items()})
            done += 1
    except Exception as error:  # carried to the consumer, who raises it
        put(error)


def _halt(thread: threading.Thread, stop: threading.Event) -> None:
    stop.set()
    if thread is not threading.current_thread():
        thread.join()


class Streams:
    """Endless iterator over ``{name: Batch}``.

    An epoch is as long as the longest sampler's; a shorter sampler goes on with its own next epoch meanwhile.

    Samplers whose rows change between epochs (``RelabelledSampler``) are never asked beyond the epoch in use: the
    first batch of the next one is prepared when it is asked for, after the labels have been renewed.

    Args:
        sources: for each name a dataset and a sampler of its rows.
        prefetch: batches prepared ahead; 0 prepares each when it is asked for.
        workers: decoding processes a dataset, for those without a store.
        pin_memory: batches in page-locked memory, for a GPU.
    """

    def __init__(
        self,
        sources: Mapping[str, tuple[Shown, Sampler]],
        *,
        prefetch: int = 2,
        workers: int = 2,
        pin_memory: bool = False,
    ) -> None:
        if not sources:
            raise DatasetError("streams need at least one dataset")
        self._sources = dict(sources)
        self._prefetch, self._workers, self._pin = prefetch, workers, pin_memory
        self._thread: threading.Thread | None = None
        self._direct: dict[str, Iterator[Batch]] | None = None
        self._stop = threading.Event()
        self._ready: queue.Queue[Batches | Exception] = queue.Queue()
        self.iteration = 0  # the one that the next batch belongs to
        self._started = 0  # the one that the producer began with

    def __len__(self) -> int:
        """Batches an epoch."""
        return max(len(sampler) for _, sampler in self._sources.values())

    @property
    def epoch(self) -> int:
        """Epoch of the next batch, from 0."""
        return self.iteration // len(self)

    @property
    def samplers(self) -> dict[str, Sampler]:
        """The sampler of each dataset, as it is now."""
        return {name: sampler for name, (_, sampler) in self._sources.items()}

    @property
    def bounded(self) -> bool:
        """Whether nothing may be prepared across the end of an epoch."""
        return any(getattr(sampler, "relabelled", False) for _, sampler in self._sources.values())

    def at_epoch_end(self) -> bool:
        """Whether the batch handed out last was an epoch's last, and nothing may be asked for before the next one."""
        return self.bounded and self.iteration % len(self) == 0

    def rows(self, iteration: int) -> dict[str, Rows]:
        """The images of each dataset that this rank sees in an iteration, styled copies as their originals."""
        found = {}
        for name, (_, sampler) in self._sources.items():
            plain = getattr(sampler, "sampler", sampler)
            epoch, batch = divmod(iteration, len(plain))
            found[name] = plain.epoch(epoch)[batch]
        return found

    def replace(self, name: str, sampler: Sampler) -> None:
        """Another sampler for one dataset, from the next batch on; what was prepared ahead is dropped."""
        running = self._thread is not None or self._direct is not None
        self.close()
        self._sources[name] = (self._sources[name][0], sampler)
        if running:
            self.start(self.iteration)

    def add(self, name: str, dataset: Shown, sampler: Sampler) -> None:
        """One more dataset, before the first batch."""
        self._sources[name] = (dataset, sampler)

    def start(self, iteration: int = 0) -> None:
        """Begin (again) with the batch of this global iteration, counted from 0; bounded streams wait to be asked."""
        self.close()
        self.iteration = iteration
        if not self.bounded:
            self._open(iteration)

    def _open(self, iteration: int) -> None:
        self.close()
        self._started = iteration
        sources, workers, pin = dict(self._sources), self._workers, self._pin
        count = len(self) - iteration % len(self) if self.bounded else None

        def open_sources() -> dict[str, Iterator[Batch]]:
            return {
                name: _from_workers(dataset, sampler, iteration, count, workers, pin)
                if dataset.mode == "off" and workers > 0
                else _from_store(dataset, sampler, iteration, pin)
                for name, (dataset, sampler) in sources.items()
            }

        if self._prefetch < 1:
            self._direct = open_sources()
            return
        self._stop, self._ready = threading.Event(), queue.Queue(self._prefetch)
        self._thread = threading.Thread(
            target=_produce, args=(open_sources, self._ready, self._stop, count), name="streams", daemon=True
        )
        self._thread.start()
        weakref.finalize(self, _halt, self._thread, self._stop)  # forgotten, or at the end of the program

    def __iter__(self) -> Streams:
        return self

    def __next__(self) -> Batches:
        if (self._thread is None and self._direct is None) or self._renewed():
            self._open(self.iteration)
        if self._direct is not None:
            item: Batches | Exception = {name: next(source) for name, source in self._direct.items()}
        else:
            item = self._ready.get()
        if isinstance(item, Exception):
            self.close()
            raise item
        self.iteration += 1
        return item

    def _renewed(self) -> bool:
        """Whether an epoch of a bounded stream begins whose labels its producer has not seen."""
        return self.at_epoch_end() and self._started < self.iteration

    def close(self) -> None:
        """Stop the thread and the workers; ``start`` or the next batch begins again."""
        if self._thread is not None:
            _halt(self._thread, self._stop)
        self._thread, self._direct = None, None

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
