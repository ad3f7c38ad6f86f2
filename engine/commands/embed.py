"""Vectors of photos: crossreid embed CHECKPOINT PATH... --out FILE.npz [--device cpu] [KEY VALUE ...].

FILE.npz holds ``vectors`` [N, D] float32, L2-normalised, ``paths``, and the ``digest`` of the network. FILE.parquet
needs the package pyarrow.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossreid.engine.commands import command_parser, key_values
from crossreid.engine.errors import InputError, guarded


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command; ``arguments`` default to the command line's."""
    parser = command_parser("embed", __doc__)
    parser.add_argument("checkpoint")
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="photos or folders, then KEY VALUE pairs if any"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.npz")
    parser.add_argument("--device", help="cpu, or a GPU's id; default: a GPU if there is one")
    parser.add_argument("--batch", type=int, default=64, help="photos a forward pass")
    options = parser.parse_intermixed_args(arguments)
    if options.out.suffix not in (".npz", ".parquet"):
        raise InputError(f"--out {options.out}: give a name that ends in .npz or .parquet")
    if options.out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InputError(f"--out {options.out}: parquet needs pyarrow: pip install pyarrow, or write .npz")
    paths, overrides = key_values(options.paths)

    from crossreid.engine.deploy.embedder import Embedder
    from crossreid.engine.deploy.photos import expand

    files = expand(paths)
    embedder = Embedder(
        options.checkpoint, device=options.device, batch_size=options.batch, overrides=overrides
    )
    vectors = embedder(files, progress=True)
    _write(options.out, vectors, files, embedder.digest)
    print(f"{options.out}: {len(files):,} vectors of {embedder.dim} numbers, model {embedder.digest}")


def _write(out: Path, vectors: NDArray[np.float32], files: list[str], digest: str) -> None:
    from crossreid.datasets.files import draft

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with draft(out) as partial:
            if out.suffix == ".npz":
                with partial.open("wb") as file:
                    np.savez(file, vectors=vectors, paths=np.array(files), digest=np.array(digest))
                return
            import pyarrow
            import pyarrow.parquet

            columns = {"path": files, "vector": list(vectors)}
            table = pyarrow.table(columns).replace_schema_metadata({"digest": digest})
            pyarrow.parquet.write_table(table, partial)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error})") from None
