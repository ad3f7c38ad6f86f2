"""The numbers and pictures of a run: metrics.jsonl, TensorBoard, PNG; a full disk costs some of them, never the run."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from crossreid.engine.errors import counted
from crossreid.engine.files import write_whole
from crossreid.engine.log import LOGGER


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
        self._lines: Lines | None = None
        self._writer: Any = None
        self._pictures = folder and folder / "pictures"
        if folder is None:
            return
        self._lines = Lines(folder / "metrics.jsonl", after)
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            try:
                self._writer = SummaryWriter(
                    str(folder / "tensorboard"), purge_step=after + 1 if after else 0
                )
            except OSError as error:
                self._give_up(error)

    def add(self, step: int, values: Mapping[str, float], **more: Any) -> None:
        """Record numbers of a step; ``more`` goes to the JSON line alone."""
        if self._lines is not None:
            self._lines.add(json.dumps({"step": step, **more, **values}) + "\n")
        if self._writer is not None:
            try:
                for name, value in values.items():
                    self._writer.add_scalar(name, value, step)
            except OSError as error:
                self._give_up(error)
        if self._trackers is not None:
            self._trackers.add(step, values)

    def draw(self, step: int, epoch: int, pictures: Mapping[str, torch.Tensor]) -> None:
        """Keep pictures, uint8 [3, H, W] by name, as ``pictures/<name>-<epoch>.png`` and in TensorBoard."""
        if self._pictures is None:
            return
        for name, picture in pictures.items():
            path = self._pictures / f"{name}-{epoch:04d}.png"
            image = Image.fromarray(picture.cpu().permute(1, 2, 0).numpy())
            try:
                write_whole(path, partial(image.save, format="PNG"))
            except OSError as error:
                LOGGER.warning("no picture %s: %s", path, error)
            if self._writer is not None:
                try:
                    self._writer.add_image(name, picture.cpu(), step)
                except OSError as error:
                    self._give_up(error)

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                self._give_up(error)
        if self._trackers is not None:
            self._trackers.close()

    def _give_up(self, error: OSError) -> None:
        """TensorBoard's thread has ended: no more for it in this run."""
        LOGGER.warning("TensorBoard's files are incomplete from here on: %s", error)
        self._writer = None


class Lines:
    """A file of whole lines; those that a full disk does not take are kept and written once there is room again.

    Args:
        after: lines of steps up to this one stay; 0 starts anew.
    """

    def __init__(self, path: Path, after: int) -> None:
        self.path = path
        self._waiting: list[str] = []
        self._told = False
        self._file: Any = None
        kept = "".join(_kept(path, after)) if after else ""
        try:
            write_whole(
                path, lambda file: file.write(kept.encode())
            )  # a run killed here leaves the old lines whole
            self._size = path.stat().st_size
            self._file = path.open("r+b", buffering=0)
            self._file.seek(self._size)
        except OSError as error:
            LOGGER.warning("%s cannot be written, the run goes on without it: %s", path, error)

    def add(self, line: str) -> None:
        if self._file is None:
            return
        self._waiting.append(line)
        data = "".join(self._waiting).encode()
        try:
            if self._file.write(data) != len(data):
                raise OSError("no room for the whole line")
            self._size += len(data)
            self._waiting = []
        except OSError as error:
            self._undo()
            if not self._told:
                LOGGER.warning("%s cannot be written, its lines wait for room: %s", self.path, error)
            self._told = True

    def _undo(self) -> None:
        """Cut off what a failed write has left of a line."""
        try:
            os.ftruncate(self._file.fileno(), self._size)
            self._file.seek(self._size)
        except OSError:  # a read-only disk took nothing
            return

    def close(self) -> None:
        if self._file is None:
            return
        if self._waiting:
            self.add("")
        if self._waiting:
            lost = sum(map(bool, self._waiting))
            LOGGER.warning("%s lacks %s for want of room", self.path, counted(lost, "line"))
        self._file.close()


def _kept(path: Path, after: int) -> list[str]:
    """The lines of steps up to ``after``; a damaged one, or a last one left unfinished, is named and dropped."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    kept = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            LOGGER.warning("%s: line %d was left unfinished and is dropped", path, number)
            continue
        try:
            if json.loads(line)["step"] <= after:
                kept.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            LOGGER.warning("%s: line %d is damaged and dropped", path, number)
    return kept


def _of_tensorboard(arguments: threading.ExceptHookArgs) -> None:
    """A full disk ends TensorBoard's thread; the next ``add`` reports it in a line."""
    ours = type(arguments.thread).__module__.startswith("tensorboard.")
    if not (ours and isinstance(arguments.exc_value, OSError)):
        _usual(arguments)


_usual, threading.excepthook = threading.excepthook, _of_tensorboard
