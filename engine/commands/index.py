"""Index the photos of cameras: crossreid index CHECKPOINT CAMERAS --out INDEX [--device cpu] [KEY VALUE ...].

CAMERAS is a folder with one folder of photos a camera, or a CSV: path,camid[,time,track,pid]. Run again,
it adds and removes what has changed.
"""

from __future__ import annotations

from pathlib import Path

from crossreid.engine.commands import command_parser
from crossreid.engine.errors import counted, guarded
from crossreid.engine.extras import need


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command; ``arguments`` default to the command line's."""
    parser = command_parser("index", __doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("cameras", type=Path)
    parser.add_argument("overrides", nargs="*", help="KEY VALUE pairs")
    parser.add_argument("--out", required=True, type=Path, metavar="INDEX")
    parser.add_argument("--device", help="cpu, or a GPU's id; default: a GPU if there is one")
    parser.add_argument("--batch", type=int, default=64, help="photos a forward pass")
    parser.add_argument("--dtype", default="float16", help="of the vectors on disk: float16 or float32")
    parser.add_argument("--skip-corrupt", action="store_true", help="leave out photos that do not decode")
    parser.add_argument("--faiss", action="store_true", help="also a faiss index, for millions of photos")
    options = parser.parse_intermixed_args(arguments)

    from crossreid.engine.deploy.embedder import Embedder
    from crossreid.engine.deploy.faiss_index import build_faiss
    from crossreid.engine.deploy.index import build_index
    from crossreid.engine.deploy.photos import list_photos
    from crossreid.engine.log import setup_text

    setup_text(None, quiet=False)
    if options.faiss:
        need("--faiss", "faiss")
    list_photos(options.cameras)  # what is wrong with the photos is reported before the network is loaded
    embedder = Embedder(
        options.checkpoint, device=options.device, batch_size=options.batch, overrides=options.overrides
    )
    index, counts = build_index(
        embedder,
        options.cameras,
        options.out,
        dtype=options.dtype,
        skip_corrupt=options.skip_corrupt,
        progress=True,
    )
    if options.faiss:
        build_faiss(index)
    told = ", ".join(f"{count:,} {word}" for word, count in counts.items())
    print(
        f"{options.out}: {len(index):,} photos of {counted(len(index.columns.camera_names), 'camera')} ({told}), "
        f"model {index.digest}"
    )
