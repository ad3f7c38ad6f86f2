"""``load(name, root)``: from a dataset's name to its checked splits."""

from __future__ import annotations

import difflib
import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossreid.datasets import counts, resolver
from crossreid.datasets.csv_file import read_csv
from crossreid.datasets.cuhk03 import read_cuhk03
from crossreid.datasets.market import read_market, read_own
from crossreid.datasets.msmt import read_msmt
from crossreid.datasets.splits import DatasetError, Splits

ALIASES = {"market1501": "market", "dukemtmc": "duke", "cuhknp": "cuhk", "msmt17v1": "msmt"}
NAMES = (*resolver.LAYOUTS, "synthetic", "csv", "folder")
SUBSETS = ("labeled", "detected")

logger = logging.getLogger(__name__)


def canonical(name: str) -> tuple[str, str]:
    """Canonical dataset name and what follows its colon (domain, file or folder; may be empty).

    Raises:
        DatasetError: the name is unknown; the nearest known one is named.
    """
    head, _, tail = name.strip().partition(":")
    head = ALIASES.get(head.lower(), head.lower())
    if head in resolver.LAYOUTS and not tail:
        return head, ""
    if head == "synthetic" and not tail:
        raise DatasetError("synthetic: a domain is needed, as in synthetic:summer")
    if head in ("synthetic", "csv", "folder"):
        return head, tail
    if "." in head:
        return name.strip().partition(":")[0], tail
    known = [*NAMES[:-3], *ALIASES, "synthetic:<domain>", "csv", "folder", "your.module:<folder>"]
    near = difflib.get_close_matches(name, known, 1, 0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise DatasetError(f"unknown dataset {name!r}; {hint}known: {', '.join(known)}")


def load(
    name: str,
    root: str | Path | None = None,
    *,
    strict: bool = False,
    subset: str = "labeled",
    train_val: bool = True,
    split_id: int = 0,
    synthetic: Mapping[str, Any] | None = None,
) -> Splits:
    """Read a dataset's listing; sorted, training identities relabelled, junk dropped, sizes checked.

    Args:
        name: a name or alias of ``NAMES``; ``synthetic:<domain>``, ``csv:<file>``, ``folder:<folder>``, or
            ``package.module:<folder>``, whose ``load(folder)`` gives the splits.
        root: folder of all datasets (or the dataset's own); default ``REID_DATASETS`` or ``./data``. For
            ``csv`` and ``folder`` without a colon: the file (or the folder with one .csv file), the folder.
        strict: sizes that differ from the published ones are an error, not a warning.
        subset: of CUHK03-NP, "labeled" or "detected".
        train_val: MSMT17 trains on list_train + list_val.
        split_id: which of the splits of CUHK03's old protocol.
        synthetic: arguments of the built-in domains (identities, cameras, seed, height, width, ...).

    Raises:
        DatasetError: unknown name, nothing found, a name that does not parse, an empty split, wrong sizes.
    """
    kind, tail = canonical(name)
    base = Path(root).expanduser() if root else resolver.default_root()
    if subset not in SUBSETS:
        raise DatasetError(f"DATASETS.SUBSET {subset!r} is not one of {', '.join(SUBSETS)}")
    if kind == "synthetic":
        splits = _read_synthetic(tail, base, dict(synthetic or {}))
    elif kind == "csv":
        splits = read_csv(_csv_path(base, tail), "csv")
    elif kind == "folder":
        splits = read_own(_given(base, tail), "folder")
    elif "." in kind:
        splits = _read_outside(kind, _given(base, tail))
    else:
        splits = _read_published(kind, base, subset, train_val, split_id)
    return _checked(splits, f"{kind}/{subset}" if kind == "cuhk" else kind, strict, train_val)


def _read_published(kind: str, base: Path, subset: str, train_val: bool, split_id: int) -> Splits:
    path, variant = resolver.find(kind, base, subset=subset)
    if kind == "cuhk03":
        return read_cuhk03(path, kind, split_id=split_id)
    if kind in ("msmt", "msmt17v2") and variant == 0:
        images = ("train", "test") if kind == "msmt" else ("mask_train_v2", "mask_test_v2")
        logger.info("%s: training on list_train%s (TRAIN_VAL %s)", kind, " + list_val" * train_val, train_val)
        return read_msmt(path, kind, images, train_val=train_val)
    return read_market(path, kind)


def _read_synthetic(domain: str, base: Path, arguments: dict[str, Any]) -> Splits:
    from crossreid.datasets.built_in import ensure  # drawing is imported only by those who draw

    folder = ensure(domain, base, **arguments)
    return read_market(folder, f"synthetic:{domain}")


def _read_outside(module: str, folder: Path) -> Splits:
    """What ``load(folder)`` of a reader from outside the tree gives."""
    try:
        reader = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise DatasetError(
            f"dataset {module}:{folder}: Python finds no module {error.name}; add the folder that holds it to "
            "PYTHONPATH"
        ) from None
    splits = reader.load(folder) if hasattr(reader, "load") else None
    if not isinstance(splits, Splits):
        raise DatasetError(f"dataset {module}: it needs a function load(folder) that returns datasets.Splits")
    return splits


def _given(base: Path, tail: str) -> Path:
    """The path after the colon, as it is or below the root."""
    path = Path(tail).expanduser() if tail else base
    path = path if path.exists() or path.is_absolute() else base / tail
    if not path.exists():
        raise DatasetError(f"no such file or folder: {path}")
    return path


def _csv_path(base: Path, tail: str) -> Path:
    path = _given(base, tail)
    if path.is_file():
        return path
    files = sorted(path.glob("*.csv"))
    if len(files) != 1:
        raise DatasetError(f"csv: {path} holds {len(files)} .csv files; name the one meant: csv:<file>")
    return files[0]


def _checked(splits: Splits, key: str, strict: bool, train_val: bool) -> Splits:
    parts = {"train": splits.train, "query": splits.query, "gallery": splits.gallery}
    for split in parts.values():
        if len(split) == 0:
            junk = f" but {split.junk:,} junk images (identity -1)" if split.junk else ""
            raise DatasetError(f"{split.name}: no images{junk} below {splits.root}")
    known = set(parts) - (
        {"train"} if key.startswith("msmt") and not train_val else set()
    )  # sizes are of train + val
    lines = tuple(counts.differences(key, {part: parts[part] for part in known}))
    if lines and strict:
        raise DatasetError("; ".join(lines) + f"; in {splits.root} (DATASETS.STRICT)")
    for line in lines:
        logger.warning("%s (%s)", line, splits.root)
    logger.info(
        "%s: %s",
        splits.name,
        "; ".join(f"{part} {counts.describe(counts.found(s))}" for part, s in parts.items()),
    )
    return Splits(splits.name, splits.root, splits.train, splits.query, splits.gallery, lines)
