"""One self-contained HTML page of a run or an evaluation: crossreid report RUN|FEATURES --out FILE.html.

RUN is a folder logs/NAME or a checkpoint; FEATURES a *-query.npz of eval.py. A run's features are extracted again from
its last checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from crossreid.engine.commands import command_parser
from crossreid.engine.errors import guarded
from crossreid.engine.extras import need


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command; ``arguments`` default to the command line's."""
    parser = command_parser("report", __doc__)
    parser.add_argument("source", type=Path, metavar="RUN|FEATURES")
    parser.add_argument("overrides", nargs="*", help="KEY VALUE pairs")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.html")
    parser.add_argument("--device", default="cpu", help="cpu, or a GPU's id")
    options = parser.parse_intermixed_args(arguments)

    from crossreid.engine.deploy.report_page import write_report
    from crossreid.engine.deploy.report_subject import subject_of

    need("a report", "report")
    subject = subject_of(options.source, options.device, options.overrides)
    print(write_report(options.out, subject))
