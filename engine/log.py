"""What a run logs: text on the screen and in a file, means of losses, progress bars."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

LOGGER = logging.getLogger("crossreid")
tqdm.set_lock(
    threading.RLock()
)  # tqdm's own is a semaphore of the system, which a killed process leaves behind


def setup_text(file: Path | None, *, quiet: bool) -> None:
    """Send the text log to the screen and, if given, to a file; ``quiet`` ranks tell errors only."""
    LOGGER.setLevel(logging.ERROR if quiet else logging.INFO)
    LOGGER.propagate = False
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
        with contextlib.suppress(OSError):  # what waited for room finds none
            handler.close()
    handlers: list[logging.Handler] = [_Screen(sys.stdout)]
    if file is not None:
        handlers.append(_File(file, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        LOGGER.addHandler(handler)


class Means:
    """Running means of detached tensors, kept on the device until they are read.

    It also notes the first step whose values were not finite, again without reading the device.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], torch.Tensor] = {}  # one vector for every set of names
        self._counts: dict[tuple[str, ...], int] = {}
        self._bad: torch.Tensor | None = None

    def add(self, step: int, values: Mapping[str, torch.Tensor]) -> None:
        """Add a step's scalars: a handful of operations on the device, however many they are."""
        names = tuple(values)
        packed = torch.stack([value.detach().float() for value in values.values()])
        known = self._sums.get(names)
        self._sums[names] = packed if known is None else known.to(packed.device) + packed
        self._counts[names] = self._counts.get(names, 0) + 1
        now = torch.where(torch.isfinite(packed).all(), 0, step)
        before = None if self._bad is None else self._bad.to(now.device)
        self._bad = now if before is None else torch.where(before > 0, before, now)

    def read(self) -> tuple[dict[str, float], int]:
        """The means since the last reading, and the first bad step (0: none); waits for the device once."""
        if self._bad is None:
            return {}, 0
        numbers = torch.cat([*(s.double() for s in self._sums.values()), self._bad.double()[None]]).tolist()
        totals: dict[str, float] = {}
        counts: dict[str, int] = {}
        named = [(name, count) for names, count in self._counts.items() for name in names]
        for (name, count), value in zip(named, numbers):
            totals[name], counts[name] = totals.get(name, 0.0) + value, counts.get(name, 0) + count
        self._sums, self._counts, self._bad = {}, {}, None
        return {name: total / counts[name] for name, total in totals.items()}, int(numbers[-1])

    def bad_step(self) -> int:
        """The first bad step since the last reading (0: none); waits for the device."""
        return 0 if self._bad is None else int(self._bad)

    def state_dict(self) -> dict[str, Any]:
        """What was added since the last reading, so that a run that stops in between alters no row."""
        return {
            "sums": [
                {"names": list(names), "sum": total.cpu(), "count": self._counts[names]}
                for names, total in self._sums.items()
            ]
        }

    def load_state_dict(self, state: Any) -> None:
        """Raise ValueError for what ``state_dict`` does not write."""
        wrong = ValueError(f"sums of steps are malformed: {str(state)[:60]}")
        if not isinstance(state, Mapping) or not isinstance(state.get("sums"), list):
            raise wrong
        for entry in state["sums"]:
            if not isinstance(entry, Mapping) or set(entry) != {"names", "sum", "count"}:
                raise wrong
            names, total, count = tuple(entry["names"]), entry["sum"], entry["count"]
            whole = isinstance(total, torch.Tensor) and total.dtype == torch.float32
            if not whole or total.shape != (len(names),) or type(count) is not int or count < 1:
                raise wrong
            self._sums[names], self._counts[names] = total, count
            self._bad = torch.tensor(0)


def progress_bar(total: int, label: str, *, enabled: bool = True, **options: Any) -> tqdm[Any]:
    """A progress bar on a terminal; nothing where the error output is piped.

    Args:
        total: steps.
        label: text before the bar.
        options: of ``tqdm``.
    """
    shown = enabled and sys.stderr.isatty()
    return tqdm(total=total, desc=label, disable=not shown, leave=False, dynamic_ncols=True, **options)


class _File(logging.FileHandler):
    """The text log; a full or read-only disk is reported once, and nothing stops for it."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.failed:
            self.failed = True
            text = f"warning: {self.baseFilename} cannot be written, its lines wait for room: {error}"
            print(text, file=sys.stderr)  # noqa: T201


class _Screen(logging.StreamHandler):
    """Writes lines above the bars that are on the terminal; where they are sent to a full disk, training goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        with contextlib.suppress(OSError):
            print(f"warning: the text output ends here: {error}", file=sys.stderr, flush=True)  # noqa: T201
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, self.stream.fileno())  # what is still in the buffer must not fail at the end
        os.close(devnull)

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            super().emit(record)
