"""Sweep keys of a config: crossreid sweep CONFIG KEY=a,b KEY=low..high:log [--devices 0,1] [KEY VALUE ...].

A grid of values, or points drawn from ranges (--sampler random or tpe). Everything lies in sweeps/NAME: table.md,
trials.csv, best.yml, logs and checkpoints. The same command goes on with a sweep that was killed; on another machine
with the same file system it joins.

  crossreid sweep configs/demo.yml CAMERA_AWARE.EPS=0.7,0.8,0.9 SEED=0,1 --devices cpu,cpu
  crossreid sweep configs/demo.yml SOLVER.LR=1e-4..1e-2:log --sampler tpe --trials 20 --devices 0,1,2,3
"""

from __future__ import annotations

import argparse
import sys

from crossreid.engine.commands import command_parser
from crossreid.engine.errors import InputError, guarded


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("sweep", __doc__)
    parser.add_argument("config", help="YAML file; its section SWEEP may say what varies")
    parser.add_argument(
        "words", nargs="*", help="KEY=a,b,c, KEY=low..high, :log or :step; and overrides of every run"
    )
    parser.add_argument(
        "--devices", default="cpu", help="GPU ids like 0,1,2,3, or cpu,cpu for two runs at a time"
    )
    parser.add_argument("--per-run", type=int, default=1, help="devices of each run")
    parser.add_argument("--sampler", help="grid, random or tpe (needs optuna)")
    parser.add_argument("--trials", type=int, help="points to draw")
    parser.add_argument("--sampler-seed", type=int, help="of the drawing")
    parser.add_argument(
        "--objective",
        help="silhouette, stability, camera_entropy, density, source_guided, or oracle (the labels)",
    )
    parser.add_argument(
        "--prune", action="store_true", default=None, help="stop runs that fall behind the median"
    )
    parser.add_argument("--retry", action="store_true", help="run failed ones again")
    parser.add_argument("--commands", action="store_true", help="print the command of each run, run nothing")
    parser.add_argument("--table", action="store_true", help="print the table of what is done, run nothing")
    return parser


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command; ``arguments`` default to the command line's."""
    arguments = sys.argv[1:] if arguments is None else arguments
    from crossreid.configs.overrides import set_apart

    plain, assigned = set_apart(arguments)
    options = _parser().parse_intermixed_args(plain)

    from crossreid.engine.sweeps.asked import Wishes, read_sweep
    from crossreid.engine.sweeps.outputs import command
    from crossreid.engine.sweeps.plan import check_runs
    from crossreid.engine.sweeps.slots import share
    from crossreid.engine.sweeps.start import show, start

    wishes = Wishes(options.sampler, options.trials, options.sampler_seed, options.objective, options.prune)
    sweep = read_sweep(options.config, [*options.words, *assigned], wishes)
    slots = share(options.devices, options.per_run)
    check_runs(sweep, options.per_run)
    if options.commands:
        if sweep.sampler == "tpe":
            raise InputError(
                "--commands: tpe chooses points by what others have reached: trials.csv lists them"
            )
        for run in (run for point in sweep.points() for run in sweep.runs(point)):
            print(command(sweep, run, slots[0]))
    elif options.table:
        print(show(sweep, slots[0]).text())
    elif code := start(sweep, slots, retry=options.retry):
        raise SystemExit(code)
