"""Adapt to your own cameras: crossreid adapt CAMERAS --from CONFIG|CHECKPOINT [--devices cpu] [KEY VALUE ...].

CAMERAS is a folder with one folder of photos a camera (no names, no identities), or a CSV. The adapted network is
checkpoints/NAME/last.pt; criteria that need no labels say whether it has become better.
"""

from __future__ import annotations

import math
from pathlib import Path

from crossreid.engine.commands import command_parser
from crossreid.engine.errors import guarded


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command; ``arguments`` default to the command line's."""
    parser = command_parser("adapt", __doc__)
    parser.add_argument("cameras")
    parser.add_argument("overrides", nargs="*", help="KEY VALUE pairs")
    parser.add_argument("--from", dest="origin", required=True, metavar="CONFIG|CHECKPOINT")
    parser.add_argument("--devices", default="cpu", help="GPU ids like 0,1, or cpu, or cpu:2 (two processes)")
    options = parser.parse_intermixed_args(arguments)

    from crossreid.engine.training.adapt import adapt_config, health
    from crossreid.engine.training.launch import start

    cfg = adapt_config(options.cameras, options.origin, options.devices, options.overrides)
    if code := start(cfg, options.devices):
        raise SystemExit(code)
    adapted = Path(cfg.OUTPUT_DIR) / "checkpoints" / cfg.NAME / "last.pt"
    columns = {"adapted": health(cfg, adapted, options.devices)}
    if cfg.MODEL.WEIGHTS:
        columns = {"before": health(cfg, Path(cfg.MODEL.WEIGHTS), options.devices), **columns}
    names = [name for name, value in columns["adapted"].items() if math.isfinite(value)]
    print("\nwithout labels" + " " * 8 + "".join(f"{title:>12}" for title in columns))
    for name in names:
        print(f"{name:<22}" + "".join(f"{values[name]:>12.3f}" for values in columns.values()))
    print(f"\nnext: crossreid index {adapted} {options.cameras} --out index")
