"""An approximate index of faiss beside an exact one: for galleries where one pass over all vectors takes too long."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossreid.engine.deploy.index import Index
from crossreid.engine.deploy.search import RERANKED, Filter, Hit, hits_of
from crossreid.engine.errors import InputError
from crossreid.engine.extras import need

FILE = "faiss.index"
PROBES = 32  # lists that a search visits


def build_faiss(index: Index) -> None:
    """Write an inverted-file index (about sqrt(N) lists, half-precision vectors) into the index's folder."""
    need("--faiss", "faiss")
    import faiss

    count, dim = index.vectors.shape
    lists = max(1, min(int(math.sqrt(count)), count // 40))
    made = faiss.index_factory(dim, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    sample = np.linspace(0, count - 1, min(count, 64 * lists)).astype(np.int64)
    made.train(np.asarray(index.vectors[sample], np.float32))
    for start in range(0, count, 65536):
        made.add(np.asarray(index.vectors[start : start + 65536], np.float32))
    faiss.write_index(made, str(index.folder / FILE))


def search_faiss(
    index: Index,
    query: NDArray[np.float32],
    *,
    top: int = 10,
    only: Filter | None = None,
    rerank: bool = False,
) -> list[Hit]:
    """As ``search.search``, among the photos of the ``PROBES`` lists nearest to the query.

    Raises:
        InputError: no faiss, or no faiss index there.
    """
    need("--faiss", "faiss")
    faiss: Any = import_module("faiss")  # its stubs lack what follows
    path = index.folder / FILE
    if not path.is_file():
        raise InputError(f"{index.folder} has no faiss index: run crossreid index with --faiss")
    made = faiss.read_index(str(path))
    if made.ntotal != len(index):
        raise InputError(f"{path} is of another state of the index: run crossreid index with --faiss")
    allowed = (only or Filter()).mask(index)
    options = faiss.SearchParametersIVF(nprobe=min(PROBES, made.nlist))
    if allowed is not None:
        options.sel = faiss.IDSelectorBatch(np.flatnonzero(allowed))
    wanted = min(max(top, RERANKED) if rerank else 2 * top + 10, len(index))  # half precision may swap some
    _, rows = made.search(query[None], wanted, params=options)
    return hits_of(index, query, np.sort(rows[0][rows[0] >= 0]), top, rerank)
