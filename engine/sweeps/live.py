"""What a sweep shows while it runs: a table that is redrawn on a terminal, a line for each event elsewhere."""

from __future__ import annotations

import math
import re
import shutil
import sys
import time

from crossreid.engine.sweeps.launcher import Launcher
from crossreid.engine.sweeps.outputs import ranked
from crossreid.engine.sweeps.results import DONE, FAILED, PRUNED
from crossreid.engine.sweeps.slots import last_line

TOP = 5  # points that are shown with what they have reached
_STEP = re.compile(r"epoch (\d+)/(\d+)(?: step (\d+)/(\d+))?")


class Live:
    """The screen of a launcher."""

    def __init__(self, launcher_of: str) -> None:
        self.title, self.terminal = launcher_of, sys.stdout.isatty()
        self._drawn, self._last = 0, 0.0
        self._told: dict[str, str] = {}

    def show(self, launcher: Launcher, news: bool) -> None:
        """Draw anew on a terminal, twice a second at most; elsewhere tell what is new."""
        if not self.terminal:
            if news:
                self._tell(launcher)
            return
        if news or time.monotonic() - self._last > 1:
            self._last = time.monotonic()
            self._draw(_lines(self.title, launcher))

    def _tell(self, launcher: Launcher) -> None:
        running = {busy.run.name: "started" for busy in launcher.busy.values()}
        for run in launcher.runs():
            state = launcher.results.state(run) or running.get(run.name, "")
            if state and self._told.get(run.name) != state:
                self._told[run.name] = state
                ended = launcher.results.ended(run)
                why = f": {ended.line}" if ended and ended.state == FAILED else ""
                self._write(f"{time.strftime('%H:%M:%S')} {state:<8}{run.name}{why}\n")

    def _draw(self, lines: list[str]) -> None:
        width = shutil.get_terminal_size().columns
        up = f"\033[{self._drawn}A" if self._drawn else ""
        self._write(up + "".join(f"\033[2K{line[: width - 1]}\n" for line in lines) + "\033[J")
        self._drawn = len(lines)

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _lines(title: str, launcher: Launcher) -> list[str]:
    """The table as lines: counts, a line for each slot, the best points so far."""
    results, runs = launcher.results, list(launcher.runs())
    states = [results.state(run) for run in runs]
    counts = ", ".join(
        f"{states.count(s)} {s}" for s in (DONE, FAILED, PRUNED) if states.count(s) or s == DONE
    )
    lines = [f"{title}: {len(runs)} runs, {counts}, {len(launcher.busy)} running here"]
    for slot, devices in enumerate(launcher.slots):
        busy = launcher.busy.get(slot)
        doing = "idle" if busy is None else f"{busy.run.name}  {_where(last_line(launcher.log(busy.run)))}"
        if busy is not None:
            doing += f"  {busy.child.seconds / 60:.1f} min" + ("  being pruned" if busy.pruned else "")
        lines.append(f"  {devices:<8}{doing}")
    for point in ranked(results, launcher.source.points())[:TOP]:
        name = launcher.sweep.runs(point)[0].name.rpartition("-seed")[0]
        score, mine = results.score(point), results.finished(point)
        reached = f"{launcher.sweep.objective} {score:.3f}" if math.isfinite(score) else f"{len(mine)} runs"
        last = [e.values["mAP"] for r in mine if (e := r.read()) and "mAP" in e.values]
        shown = f"  mAP {100 * sum(last) / len(last):.1f}" if last else ""
        lines.append(f"    {name:<40}{reached}{shown}")
    return lines


def _where(line: str) -> str:
    """Epoch and step of a line of the log."""
    match = _STEP.search(line)
    return match[0] if match else line[:60]
