"""From the streams to batches on the device, the next one copied while this one is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch

from crossreid.datasets import Batch

Batches = Mapping[str, Batch]


def on_device(
    streams: Iterable[Batches], device: torch.device, *, pause: Callable[[], bool] = lambda: False
) -> Iterator[dict[str, Batch]]:
    """Batches of all streams on the device; the host never waits for a copy.

    On a GPU the copies run on a stream of their own, one batch ahead of the one handed out. Page-locked memory is
    given back by PyTorch's allocator, which waits for the copies that read it.

    Args:
        pause: asked after every batch, whether the next one must wait until it is asked for (labels will change).
    """
    if device.type != "cuda":
        for batches in streams:
            yield _moved(batches, device)
        return
    source, side = iter(streams), torch.cuda.Stream(device)
    ahead = None
    while True:
        ahead = ahead or _copied(source, device, side)
        if ahead is None:
            return
        current = torch.cuda.current_stream(device)
        current.wait_stream(side)  # the device waits for the copy, the host does not
        for batch in ahead.values():
            for part in vars(batch).values():
                part.record_stream(current)  # its memory is free only after the step has read it
        ready, ahead = ahead, None if pause() else _copied(source, device, side)
        yield ready


def _copied(
    source: Iterator[Batches], device: torch.device, side: torch.cuda.Stream
) -> dict[str, Batch] | None:
    """Begin to copy the next batches, if there are any."""
    batches = next(source, None)
    if batches is None:
        return None
    with torch.cuda.stream(side):
        return _moved(batches, device)


def _moved(batches: Batches, device: torch.device) -> dict[str, Batch]:
    return {name: batch.to(device, non_blocking=True) for name, batch in batches.items()}
