"""Search photos of a person in an index: crossreid search INDEX PHOTO... [--top 10] [--exclude-camera C] [--csv F].

Several photos are of one person. --html F and --png F show the hits, --csv F lists rank,path,camera,score.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

from crossreid.engine.commands import command_parser, key_values
from crossreid.engine.errors import InputError, guarded


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("search", __doc__)
    parser.add_argument("index", type=Path)
    parser.add_argument(
        "photos", nargs="+", metavar="PHOTO", help="of one person; then KEY VALUE pairs if any"
    )
    parser.add_argument("--top", type=int, default=10, help="hits")
    parser.add_argument("--camera", action="append", default=[], metavar="C", help="this camera; repeatable")
    parser.add_argument("--exclude-camera", action="append", default=[], metavar="C", help="repeatable")
    parser.add_argument(
        "--other-cameras", action="store_true", help="exclude the cameras of the photos themselves"
    )
    parser.add_argument("--from", dest="start", metavar="TIME", help="2024-05-01T12:30:00, or a frame number")
    parser.add_argument("--to", dest="end", metavar="TIME", help="the same")
    parser.add_argument("--rerank", action="store_true", help="k-reciprocal re-ranking of the first 1,000")
    parser.add_argument("--faiss", action="store_true", help="approximate, with the index of index --faiss")
    parser.add_argument("--checkpoint", help="if it is no longer where the index was made from")
    parser.add_argument("--device", help="cpu, or a GPU's id; default: a GPU if there is one")
    for kind in ("csv", "html", "png"):
        parser.add_argument(f"--{kind}", type=Path, metavar="F")
    return parser


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command; ``arguments`` default to the command line's."""
    options = _parser().parse_intermixed_args(arguments)

    from crossreid.engine.deploy import render
    from crossreid.engine.deploy.faiss_index import search_faiss
    from crossreid.engine.deploy.index import open_index
    from crossreid.engine.deploy.photos import expand, parse_time
    from crossreid.engine.deploy.search import Filter, person, same_camera, search

    index = open_index(options.index)
    words, overrides = key_values(options.photos)
    photos = [os.path.abspath(path) for path in expand(words)]  # noqa: PTH100
    exclude = set(options.exclude_camera)
    if options.other_cameras:
        exclude |= same_camera(photos, index)
    only = Filter(
        tuple(options.camera),
        tuple(sorted(exclude)),
        parse_time(options.start) if options.start else -math.inf,
        parse_time(options.end) if options.end else math.inf,
    )
    only.mask(index)  # what is wrong is reported before the network is loaded
    vectors = index.embedder(options.checkpoint, options.device, overrides)(photos)
    find = search_faiss if options.faiss else search
    hits = find(index, person(vectors), top=options.top, only=only, rerank=options.rerank)
    calibration = index.meta.get("calibration")
    print(render.table(hits, calibration))
    try:
        if options.csv:
            render.write_csv(options.csv, hits)
        if options.png:
            render.write_png(options.png, photos, hits, calibration)
        if options.html:
            render.write_html(options.html, photos, hits, calibration)
    except OSError as error:
        raise InputError(f"the result cannot be written: {error}") from None
