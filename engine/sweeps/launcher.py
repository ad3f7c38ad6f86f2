"""One launcher: keeps its slots busy until the sweep is done, whoever else works on it."""

from __future__ import annotations

import platform
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from crossreid.engine.sweeps.claims import Claim, Claims
from crossreid.engine.sweeps.plan import Point, Run, Sweep, load_run
from crossreid.engine.sweeps.pruning import behind, last_start
from crossreid.engine.sweeps.results import DONE, FAILED, PRUNED, Ended, Results
from crossreid.engine.sweeps.slots import Child, last_line

PAUSE = 0.5  # seconds between looks at the children
BEAT = 5.0  # seconds between signs of life


class Source(Protocol):
    """Where points come from."""

    def points(self) -> list[Point]: ...

    def propose(self) -> bool: ...

    def complete(self) -> bool: ...

    def tell(self) -> None: ...


class Fixed:
    """Points that are known from the beginning."""

    def __init__(self, points: list[Point]) -> None:
        self._points = points

    def points(self) -> list[Point]:
        return self._points

    def propose(self) -> bool:
        return False

    def complete(self) -> bool:
        return True

    def tell(self) -> None:
        return None


@dataclass
class Busy:
    """A slot at work."""

    run: Run
    claim: Claim
    child: Child
    pruned: bool = False


class Launcher:
    """Runs a sweep on the devices of this machine.

    Args:
        slots: devices of each run, see ``slots.share``.
        changed: called when a run has started or ended, and every few seconds.
    """

    def __init__(
        self, sweep: Sweep, slots: list[str], source: Source, results: Results, claims: Claims,
        changed: Callable[[Launcher, bool], None],
    ) -> None:  # fmt: skip
        self.sweep, self.slots, self.source = sweep, slots, source
        self.results, self.claims, self.changed = results, claims, changed
        self.busy: dict[int, Busy] = {}
        self.signal = 0
        self._beat = time.monotonic()

    def work(self) -> int:
        """Work until every run has ended; 0, or 128 + the signal that ended it before."""
        previous = {n: signal.signal(n, self._receive) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            while True:
                news = self._look()
                if not self.signal:
                    news |= self._fill()
                self.changed(self, news)
                if not self.busy and (self.signal or self._over()):
                    return 128 + self.signal if self.signal else 0
                time.sleep(PAUSE)
        finally:
            for busy in self.busy.values():
                busy.child.kill()
                busy.claim.release()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def log(self, run: Run) -> Path:
        """What a run prints."""
        return self.sweep.folder / "output" / f"{run.name}.log"

    def runs(self) -> Iterator[Run]:
        """All runs so far: of drawn points one point after the other, of a grid one seed after the other."""
        points = self.source.points()
        if self.sweep.sampler == "tpe":
            yield from (run for point in points for run in self.sweep.runs(point))
            return
        for number in range(len(self.sweep.seeds)):
            yield from (self.sweep.runs(point)[number] for point in points)

    def _receive(self, number: int, frame: object) -> None:
        """Ask all children to save; a second signal kills them."""
        for busy in self.busy.values():
            busy.child.kill() if self.signal else busy.child.stop()
        self.signal = number

    def _over(self) -> bool:
        return self.source.complete() and all(map(self.results.over, self.source.points()))

    def _fill(self) -> bool:
        """Start runs in free slots; whether there was one."""
        started = False
        for slot, devices in enumerate(self.slots):
            if slot in self.busy:
                continue
            taken = self._take()
            while taken is None and self.source.propose():
                taken = self._take()
            if taken is None:
                break
            run, claim = taken
            child = Child(self.sweep.words(run), devices, self.log(run), len(self.slots))
            self.busy[slot] = Busy(run, claim, child)
            started = True
        return started

    def _take(self) -> tuple[Run, Claim] | None:
        """The first run that has not ended and that nobody holds."""
        for run in self.runs():
            if self.results.state(run) or self.results.over(run.point):
                continue
            claim = self.claims.take(run.name)
            if claim is None:
                continue
            if not self.results.state(run):  # it may have ended between the two looks
                return run, claim
            claim.release()
        return None

    def _look(self) -> bool:
        """See to the children; whether one has ended."""
        ended = [slot for slot, busy in self.busy.items() if busy.child.ended() is not None]
        for slot in ended:
            self._conclude(self.busy.pop(slot))
        if time.monotonic() - self._beat > BEAT:
            self._beat = time.monotonic()
            for slot, busy in list(self.busy.items()):
                if not busy.claim.beat():  # this machine slept, another goes on with the run
                    busy.child.kill()
                    del self.busy[slot]
                elif self.sweep.prune and not busy.pruned and self._behind(busy.run):
                    busy.pruned = True
                    busy.child.stop()
        if ended:
            self.source.tell()
        return bool(ended)

    def _conclude(self, busy: Busy) -> None:
        code = busy.child.process.returncode
        if self.signal and code and not busy.pruned:  # stopped with this launcher: it goes on next time
            busy.claim.release()
            return
        state = DONE if code == 0 else PRUNED if busy.pruned else FAILED
        line = last_line(self.log(busy.run)) if state == FAILED else ""
        ended = Ended(state, code, line, round(busy.child.seconds, 1), platform.node(), busy.claim.number)
        self.results.write(busy.run, ended)
        busy.claim.release()  # for a launcher that tries failed runs again

    def _behind(self, run: Run) -> bool:
        """Whether the median of finished runs of the same seed leaves a run behind."""
        finished = [
            dict(self.results.progress(other))
            for other in self.runs()
            if other.seed == run.seed and self.results.state(other) == DONE
        ]
        start = last_start(load_run(self.sweep, run.overrides))
        return behind(self.results.progress(run), finished, start)
