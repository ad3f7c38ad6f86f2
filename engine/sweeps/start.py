"""From a checked sweep to its files."""

from __future__ import annotations

import sys

from crossreid.engine.comparison.table import Table
from crossreid.engine.extras import need
from crossreid.engine.sweeps.claims import Claims
from crossreid.engine.sweeps.launcher import Fixed, Launcher, Source
from crossreid.engine.sweeps.live import Live
from crossreid.engine.sweeps.outputs import write_all
from crossreid.engine.sweeps.plan import Sweep
from crossreid.engine.sweeps.results import Results
from crossreid.engine.sweeps.saved import keep


def start(sweep: Sweep, slots: list[str], *, retry: bool = False) -> int:
    """Work on a sweep until it is done; 0, or 128 + the signal that ended it before.

    Args:
        slots: devices of each run, see ``slots.share``.
        retry: run failed ones again.

    Raises:
        InputError: another sweep has this name, a package is missing.
    """
    source, results, claims = _open(sweep)
    live = Live(f"sweep {sweep.folder}")
    if retry:
        results.forget_failed([run for point in source.points() for run in sweep.runs(point)])

    def changed(launcher: Launcher, news: bool) -> None:
        if news:
            write_all(results, launcher.source.points(), slots[0], final=False)
        live.show(launcher, news)

    code = Launcher(sweep, slots, source, results, claims, changed).work()
    made = write_all(results, source.points(), slots[0], final=not code)
    sys.stdout.write(
        f"\n{made.text()}\n\n{sweep.folder}/ (table.md, trials.csv, best.yml, logs, checkpoints)\n"
    )
    if code:
        sys.stdout.write(f"stopped by signal {code - 128}; the same command goes on\n")
    return code


def show(sweep: Sweep, devices: str) -> Table:
    """The table of what a sweep has done so far; its files are written, too."""
    source, results, _ = _open(sweep)
    return write_all(results, source.points(), devices, final=True)


def _open(sweep: Sweep) -> tuple[Source, Results, Claims]:
    if sweep.sampler == "tpe":
        need("the sampler tpe", "sweep", otherwise="; grid and random go without it")
    points = sweep.points() if sweep.sampler != "tpe" else []
    keep(sweep)
    results, claims = Results(sweep), Claims(sweep.folder / "claims")
    if sweep.sampler != "tpe":
        return Fixed(points), results, claims
    from crossreid.engine.sweeps.tpe import Proposals

    return Proposals(sweep, results, claims), results, claims
