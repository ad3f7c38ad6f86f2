"""Slots: the devices of a machine shared out among runs, and the child process that trains in one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import crossreid
from crossreid.datasets.pool import available_cores
from crossreid.engine.distributed import parse_devices
from crossreid.engine.errors import InputError

PROGRAM = [sys.executable, "-m", "crossreid.engine.sweeps.child"]
PATIENCE = 120.0  # seconds that a child has to save after SIGTERM


def share(devices: str, per_run: int) -> list[str]:
    """Devices as ``train.sh`` takes them, for as many runs at a time as there is room for.

    Args:
        devices: ``0,1,2,3``, ``cpu``, ``cpu,cpu`` or ``cpu:2``; ``0,0`` lets two runs share a GPU.
        per_run: processes of a run.

    Raises:
        InputError: devices that are not understood or not there, more processes a run than devices.
    """
    names = [part.strip() for part in devices.split(",")]
    if all(name.partition(":")[0] == "cpu" for name in names):
        names = ["cpu"] * sum(len(parse_devices(name)) for name in names)
    elif all(name.isdecimal() for name in names):
        parse_devices(",".join(dict.fromkeys(names)))
    else:
        raise InputError(
            f"--devices {devices!r} is not understood: give GPU ids like 0,1,2, or cpu,cpu for two at a time"
        )
    if per_run < 1:
        raise InputError(f"--per-run is {per_run}: a run takes one device or more")
    if per_run > len(names):
        raise InputError(
            f"--per-run {per_run}: a run would need {per_run} devices, --devices names {len(names)}"
        )
    groups = [names[i : i + per_run] for i in range(0, len(names) - per_run + 1, per_run)]
    for group in groups:
        if names[0] != "cpu" and len(set(group)) < per_run:
            raise InputError(f"--devices {devices}: a run of {per_run} processes needs different GPUs")
    if names[0] == "cpu":
        return ["cpu" if per_run == 1 else f"cpu:{per_run}"] * len(groups)
    return [",".join(group) for group in groups]


@dataclass
class Child:
    """A training in a process of its own, which dies with this one.

    Args:
        words: after ``crossreid train --devices D``.
        devices: of one slot.
        log: what it prints is added to this file.
        slots: how many run beside each other; the processor's cores are shared out among them.
    """

    words: list[str]
    devices: str
    log: Path
    slots: int
    started: float = field(default_factory=time.monotonic)
    asked: float = 0.0  # when it was asked to stop

    def __post_init__(self) -> None:
        root = str(Path(crossreid.__file__).parent.parent)
        found = os.environ.get("PYTHONPATH")
        env = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{found}" if found else root}
        if self.devices.startswith("cpu"):
            env.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // self.slots)))
        command = [*PROGRAM, str(os.getpid())]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [*command, "--devices", self.devices, *self.words], stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, env=env, start_new_session=True,
            )  # fmt: skip

    def ended(self) -> int | None:
        """The exit code, None while it runs; one that does not stop in time is killed."""
        if self.asked and time.monotonic() - self.asked > PATIENCE:
            self.kill()
        return self.process.poll()

    def stop(self) -> None:
        """Ask it once to save and leave."""
        if not self.asked and self.process.poll() is None:
            self.asked = time.monotonic()
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


def last_line(log: Path) -> str:
    """The last line of a log that says something; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
