"""Rewrite a weight file for another project: crossreid convert IN OUT --to LAYOUT [KEY VALUE ...].

IN is a weight file of any known project or a checkpoint of ours. Every weight's name in IN and in OUT is printed, then
what was left out. --to crossreid writes a whole checkpoint, with neck and config, that eval.py and every other command
takes; the backbone is found by its tensors, or named with MODEL.BACKBONE.
"""

from __future__ import annotations

from pathlib import Path

from crossreid.engine.commands import command_parser
from crossreid.engine.errors import InputError, guarded


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command; ``arguments`` default to the command line's."""
    from crossreid.engine.deploy.foreign import adopt
    from crossreid.modeling.conversion import LAYOUTS, convert

    parser = command_parser("convert", __doc__)
    parser.add_argument("input", metavar="IN", type=Path)
    parser.add_argument("output", metavar="OUT", type=Path)
    parser.add_argument("overrides", nargs="*", help="KEY VALUE pairs of the config, with --to crossreid")
    parser.add_argument("--to", required=True, choices=LAYOUTS, help="whose layout OUT has")
    parser.add_argument("--quiet", action="store_true", help="print the last lines alone")
    options = parser.parse_intermixed_args(arguments)
    told: list[str] = []
    if options.to == "crossreid":
        done, told = adopt(options.input, options.output, options.overrides)
    elif options.overrides:
        raise InputError(f"--to {options.to} writes no config: leave out {' '.join(options.overrides)}")
    else:
        done = convert(options.input, options.output, options.to)
    if not options.quiet:
        width = max(len(old) for old in done.names)
        for old, new in done.names.items():
            print(f"{old:<{width}}  {new}")
    if told:
        print(f"a whole checkpoint with {' '.join(told)}: KEY VALUE behind the command changes these")
    elif options.to == "crossreid":
        print(
            "for MODEL.PRETRAINED alone, as no known backbone has these tensors: MODEL.BACKBONE NAME behind the "
            "command makes a checkpoint of it that eval.py takes"
        )
    left = ", ".join(done.skipped[:3]) + (
        f" and {len(done.skipped) - 3} more" if len(done.skipped) > 3 else ""
    )
    print(
        f"{options.output}: {len(set(done.names.values()))} tensors in {options.to}'s layout; left out: "
        f"{left or 'none'}" + "".join(f"; {note}" for note in done.notes)
    )
