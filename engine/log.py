"""What a run tells: text on the screen and in a file, JSON lines, TensorBoard, and progress bars."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
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
        handler.close()
    handlers: list[logging.Handler] = [_Screen(sys.stdout)]
    if file is not None:
        handlers.append(logging.FileHandler(file, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        LOGGER.addHandler(handler)


class Tracker(Protocol):
    """Takes the numbers of a run, beside the files."""

    def add(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Recorder:
    """Writes numbers as JSON lines and to TensorBoard; on ranks other than the first it does nothing.

    Args:
        folder: of the run's logs; None records nothing.
        tensorboard: also write event files there.
        after: on resuming, drop recorded lines of steps above this one, so that none appears twice.
        trackers: also take the numbers; closed with this recorder.
    """

    def __init__(
        self, folder: Path | None, *, tensorboard: bool, after: int = 0, trackers: Tracker | None = None
    ) -> None:
        self._trackers = trackers
        self.folder = folder
        self._lines = None
        self._writer = None
        self._pictures = folder and folder / "pictures"
        if folder is None:
            return
        path = folder / "metrics.jsonl"
        kept = _kept(path, after) if after else []
        temporary = path.with_name(".metrics.jsonl.tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        temporary.replace(path)  # a run killed here leaves the old lines whole
        self._lines = path.open("a", encoding="utf-8")
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=after + 1 if after else 0)

    def add(self, step: int, values: Mapping[str, float], **more: Any) -> None:
        """Record numbers of a step; ``more`` goes to the JSON line alone."""
        if self._lines is not None:
            self._lines.write(json.dumps({"step": step, **more, **values}) + "\n")
            self._lines.flush()
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        if self._trackers is not None:
            self._trackers.add(step, values)

    def draw(self, step: int, epoch: int, pictures: Mapping[str, torch.Tensor]) -> None:
        """Keep pictures, uint8 [3, H, W] by name, as ``pictures/<name>-<epoch>.png`` and in TensorBoard."""
        if self._pictures is None or not pictures:
            return
        self._pictures.mkdir(exist_ok=True)
        for name, picture in pictures.items():
            pixels = picture.cpu().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(self._pictures / f"{name}-{epoch:04d}.png")
            if self._writer is not None:
                self._writer.add_image(name, picture.cpu(), step)

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
        if self._writer is not None:
            self._writer.close()
        if self._trackers is not None:
            self._trackers.close()


def _kept(path: Path, after: int) -> list[str]:
    """The lines of steps up to ``after``; a damaged line is named and dropped."""
    kept = []
    for number, line in enumerate(_lines(path), 1):
        try:
            if json.loads(line)["step"] <= after:
                kept.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            LOGGER.warning("%s: line %d is damaged and dropped", path, number)
    return kept


def _lines(path: Path) -> list[str]:
    """The whole lines of a file; a last line that a killed run left unfinished is dropped."""
    if not path.is_file():
        return []
    return [
        line
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        if line.endswith("\n")
    ]


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


class _Screen(logging.StreamHandler):
    """Writes lines above the bars that are on the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            super().emit(record)
