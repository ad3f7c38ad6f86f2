"""``load(name, root)``: from a dataset's name to its checked splits."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossreid.datasets import counts, resolver
from crossreid.datasets.cameras import read_cameras
from crossreid.datasets.csv_file import read_csv
from crossreid.datasets.cuhk03 import read_cuhk03, read_torchreid, read_torchreid_mat
from crossreid.datasets.cuhk_sysu import read_cuhk_sysu
from crossreid.datasets.market import read_market, read_own
from crossreid.datasets.msmt import read_msmt
from crossreid.datasets.splits import PARTS, DatasetError, Splits

ALIASES = {
    "market1501": "market",
    "dukemtmc": "duke",
    "cuhknp": "cuhk",
    "msmt17v1": "msmt",
    "cuhksysu": "cuhk_sysu",
}
OWN = ("csv", "folder", "cameras")
TRAINING_ONLY = ("cuhk_sysu",)
NAMES = (*resolver.LAYOUTS, "synthetic", *OWN)

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
    if head in ("synthetic", *OWN):
        return head, tail
    module = name.strip().partition(":")[0]
    if "." in module and all(part.isidentifier() for part in module.split(".")):
        return module, tail
    known = [*resolver.LAYOUTS, *ALIASES, "synthetic:<domain>", "csv:<file>", "folder:<folder>"]
    known += ["cameras:<folder>", "your.module:<folder>"]
    near = difflib.get_close_matches(name, known, 1, 0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise DatasetError(f"unknown dataset {name!r}; {hint}known: {', '.join(known)}")


def load(
    name: str,
    root: str | Path | None = None,
    *,
    strict: bool = False,
    subset: str = "labeled",
    train_val: bool | None = True,
    train_all: bool = False,
    split_id: int = 0,
    missing: str = "error",
    synthetic: Mapping[str, Any] | None = None,
) -> Splits:
    """Read a dataset's listing; sorted, training identities relabelled, junk dropped, sizes checked.

    Args:
        name: a name or alias of ``NAMES``; ``synthetic:<domain>``, ``csv:<file>``, ``folder:<folder>``,
            ``cameras:<folder>``, or ``package.module:<folder>``, whose ``load(folder)`` gives the splits.
        root: folder of all datasets (or the dataset's own); default ``REID_DATASETS`` or ``./data``. For
            ``csv``, ``folder`` and ``cameras`` without a colon: the file (or the folder with one .csv file), the
            folder.
        strict: sizes that differ from the published ones are an error, not a warning.
        subset: of CUHK03, "labeled" or "detected".
        train_val: MSMT17 trains on list_train + list_val; None where only query and gallery are wanted.
        train_all: MSMT17 trains on all four lists (train, val, query, gallery).
        split_id: which of the splits of CUHK03's old protocol.
        missing: "error" refuses listed images that are not there, "keep" leaves them to the decoder.
        synthetic: arguments of the built-in domains (identities, cameras, seed, height, width, ...).

    Raises:
        DatasetError: unknown name, nothing found, a name that does not parse, an empty split, wrong sizes.
    """
    kind, tail = canonical(name)
    base = Path(root).expanduser() if root else resolver.default_root()
    if subset not in resolver.SUBSETS:
        raise DatasetError(f"DATASETS.SUBSET {subset!r} is not one of {', '.join(resolver.SUBSETS)}")
    if kind == "synthetic":
        splits = _read_synthetic(tail, base, dict(synthetic or {}))
    elif kind == "csv":
        splits = read_csv(_csv_path(base, tail), "csv", missing=missing)
    elif kind == "folder":
        splits = read_own(_given(base, tail), "folder")
    elif kind == "cameras":
        splits = read_cameras(_given(base, tail), "cameras")
    elif "." in kind:
        splits = _read_outside(kind, _given(base, tail))
    else:
        lists = {"train_val": train_val, "train_all": train_all, "missing": missing}
        splits = _read_published(kind, base, subset, split_id, lists)
    key = f"{kind}/{subset}" if kind == "cuhk" else kind
    key += "/all" if train_all and kind.startswith("msmt") else ""
    whole = kind in resolver.LAYOUTS and kind not in TRAINING_ONLY
    return _checked(splits, key, strict, published=whole, partial=not train_val)


def _read_published(kind: str, base: Path, subset: str, split_id: int, lists: Mapping[str, Any]) -> Splits:
    path, variant = resolver.find(kind, base, subset=subset)
    if kind == "cuhk_sysu":
        return read_cuhk_sysu(path, kind, resolver.SYSU[variant])
    if kind == "cuhk03":
        if variant == 0:
            return read_cuhk03(path, kind, split_id=split_id)
        return read_torchreid(path, kind, f"splits_classic_{subset}.json", subset, split_id=split_id)
    if kind == "cuhk" and variant == 1:
        return read_torchreid(path, kind, f"splits_new_{subset}.json", subset)
    if kind == "cuhk" and variant == 2:
        return read_torchreid_mat(path, kind, f"cuhk03_new_protocol_config_{subset}.mat", subset)
    if kind in ("msmt", "msmt17v2") and variant == 0:
        images = ("train", "test") if kind == "msmt" else ("mask_train_v2", "mask_test_v2")
        if lists["train_all"]:
            logger.info("%s: training on all four lists, train, val, query and gallery (TRAIN_ALL)", kind)
        elif (val := lists["train_val"]) is not None:
            logger.info("%s: training on list_train%s (TRAIN_VAL %s)", kind, " + list_val" * val, val)
        return read_msmt(path, kind, images, **lists)
    if lists["train_all"] and kind == "msmt":
        raise DatasetError(
            f"msmt: DATASETS.TRAIN_ALL needs MSMT17 with its lists, {path} is the Market-style copy; set it False"
        )
    return read_market(path, kind)


def check_name(name: str) -> None:
    """Refuse a name that no dataset has, before anything is read or drawn.

    Raises:
        DatasetError: the name, or that of the built-in domain, is unknown; the nearest known one is named.
    """
    kind, tail = canonical(name)
    if kind == "synthetic":
        from crossreid.datasets.built_in import check_domain

        check_domain(tail)


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
    try:
        path = path if path.exists() or path.is_absolute() else base / tail
        if path.exists():
            return path
    except OSError:  # a name that is too long
        pass
    raise DatasetError(f"no such file or folder: {str(path)[:300]}")


def _csv_path(base: Path, tail: str) -> Path:
    path = _given(base, tail)
    if path.is_file():
        return path
    if not path.is_dir():
        raise DatasetError(f"csv: {path} is neither a file nor a folder")
    files = sorted(path.glob("*.csv"))
    if len(files) != 1:
        raise DatasetError(f"csv: {path} holds {len(files)} .csv files; name the one meant: csv:<file>")
    return files[0]


def _checked(splits: Splits, key: str, strict: bool, *, published: bool, partial: bool) -> Splits:
    """The splits with their warnings, if they hold what they must; ``partial``: without MSMT17's list_val."""
    parts = {part: getattr(splits, part) for part in PARTS}
    if published:
        _check_complete(splits)
    elif not any(map(len, parts.values())):
        raise DatasetError(f"{splits.name}: no images with an identity or for training below {splits.root}")
    known = {part for part in PARTS if not (part == "train" and partial and key in ("msmt", "msmt17v2"))}
    lines = tuple(counts.differences(key, {part: parts[part] for part in PARTS if part in known}))
    if lines and strict:
        raise DatasetError("; ".join(lines) + f"; in {splits.root} (DATASETS.STRICT)")
    lines += tuple(note for split in parts.values() for note in split.notes)
    lines += _listed_twice(splits) if not key.endswith("/all") else ()
    for line in lines:
        logger.warning("%s (%s)", line, splits.root)
    found = "; ".join(f"{part} {counts.describe(counts.found(s))}" for part, s in parts.items() if len(s))
    logger.info("%s: %s", splits.name, found)
    if splits.cameras:
        logger.info("%s: %s", splits.name, ", ".join(f"{n} {name}" for n, name in splits.cameras.items()))
    return dataclasses.replace(splits, warnings=(*splits.warnings, *lines))


def _listed_twice(splits: Splits) -> tuple[str, ...]:
    """Paths that stand more than once in a part, or for training and in the test (contents: duplicates.py)."""
    lines = []
    seen = {part: set(getattr(splits, part).paths) for part in PARTS}
    for part, paths in seen.items():
        if more := len(getattr(splits, part)) - len(paths):
            lines.append(
                f"{splits.name}/{part}: {more:,} images are listed more than once; remove the repeated lines"
            )
    for part in PARTS[1:]:
        if both := sorted(seen["train"] & seen[part]):
            lines.append(
                f"{splits.name}: {len(both):,} images are both in train and in {part}, first {both[0]}; "
                "scores on them say nothing"
            )
    return tuple(lines)


def _check_complete(splits: Splits) -> None:
    for part in PARTS:
        split = getattr(splits, part)
        if len(split) == 0:
            junk = f" but {split.junk:,} junk images (identity -1)" if split.junk else ""
            left = "".join(f"; {note}" for note in split.notes)
            raise DatasetError(f"{split.name}: no images{junk} below {splits.root}{left}")
