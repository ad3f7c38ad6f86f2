"""Rewrite a weight file for another project: crossreid convert IN OUT --to LAYOUT.

IN is a weight file of any known project or a checkpoint of ours. Every weight's name in IN and in OUT is printed, then
what was left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from crossreid.engine.errors import guarded


def main(arguments: list[str] | None = None) -> None:
    """The command; ``arguments`` default to the command line's."""
    guarded(lambda: _main(arguments))


def _main(arguments: list[str] | None) -> None:
    from crossreid.modeling.conversion import LAYOUTS, convert

    parser = argparse.ArgumentParser(
        prog="crossreid convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", metavar="IN", type=Path)
    parser.add_argument("output", metavar="OUT", type=Path)
    parser.add_argument("--to", required=True, choices=LAYOUTS, help="whose layout OUT has")
    parser.add_argument("--quiet", action="store_true", help="print the last line alone")
    options = parser.parse_args(arguments)
    done = convert(options.input, options.output, options.to)
    if not options.quiet:
        width = max(len(old) for old in done.names)
        for old, new in done.names.items():
            print(f"{old:<{width}}  {new}")
    left = ", ".join(done.skipped[:3]) + (
        f" and {len(done.skipped) - 3} more" if len(done.skipped) > 3 else ""
    )
    print(
        f"{options.output}: {len(done.names)} tensors in {options.to}'s layout; left out: {left or 'none'}"
        + "".join(f"; {note}" for note in done.notes)
    )
