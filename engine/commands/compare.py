"""Compare finished runs: crossreid compare RUN RUN ... [--out FILE.md] [--curves FILE.png].

RUN is a folder logs/NAME, a checkpoint, or the folder of a sweep (all its runs). Runs that differ by their SEED alone
are one row. --out may be given several times: .txt, .md, .tex, .csv, or .html with the curves.
"""

from __future__ import annotations

from pathlib import Path

from crossreid.engine.commands import command_parser
from crossreid.engine.errors import InputError, guarded


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command; ``arguments`` default to the command line's."""
    parser = command_parser("compare", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument(
        "--metrics", nargs="+", default=["mAP", "rank1", "rank5"], help="mAP, rank1, mINP, a criterion"
    )
    parser.add_argument("--read", default="", metavar="TITLE", help="an evaluation other than the last")
    parser.add_argument(
        "--baseline", type=int, default=1, help="row that the others are tested against, from 1"
    )
    parser.add_argument(
        "--out", action="append", default=[], type=Path, metavar="FILE", help="also write the table"
    )
    parser.add_argument("--curves", type=Path, metavar="FILE.png", help="draw the learning curves")
    options = parser.parse_intermixed_args(arguments)

    from crossreid.engine.comparison.groups import compare, correlations, group_runs
    from crossreid.engine.comparison.output import check_outputs, draw_curves, write_table
    from crossreid.engine.comparison.runs import find_runs, read_run

    check_outputs(options.out, options.curves)
    records = [read_run(folder) for folder in find_runs(options.runs)]
    silent = [record.name for record in records if record.read(options.read) is None]
    if silent:
        raise InputError(
            f"{silent[0]} has no evaluation{f' {options.read!r}' * bool(options.read)} yet: leave it out, or wait"
        )
    columns, groups = group_runs(records)
    if not 1 <= options.baseline <= len(groups):
        raise InputError(f"--baseline {options.baseline}: there are rows 1 to {len(groups)}")
    table = compare(
        f"{len(records)} runs", columns, groups, metrics=options.metrics, read=options.read,
        baseline=options.baseline - 1, notes=correlations(records),
    )  # fmt: skip
    print(table.text())
    for name, command in table.commands:
        print(f"\n{name}\n  {command}")
    for path in options.out:
        print(f"\n{write_table(path, table, groups)}")
    if options.curves:
        print(f"\n{draw_curves(options.curves, groups)}")
