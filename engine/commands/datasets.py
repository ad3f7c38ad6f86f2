"""Look at datasets before training: sizes, odd identities, unreadable and repeated files, a contact sheet each.

crossreid datasets                           every dataset found below REID_DATASETS or ./data
crossreid datasets market csv:own/list.csv --root /data --output sheets
crossreid datasets cameras:/data/mine        your own cameras, a folder each
"""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from crossreid.datasets import DatasetError, Split, Splits, load, resolver
from crossreid.datasets.decode import ORIENTATION, decode, upright_size
from crossreid.datasets.duplicates import same_content
from crossreid.datasets.files import open_regular
from crossreid.datasets.pool import available_cores
from crossreid.datasets.readers import canonical
from crossreid.datasets.splits import PARTS, UNKNOWN
from crossreid.datasets.store import ImageFiles, corrupt_rows
from crossreid.engine.errors import guarded

TILE = (128, 64)  # height, width of a picture on a contact sheet
SMALL = (16, 8)  # size that files are decoded to when they are only tried
NAMED = 20  # files and cameras that are named of each kind


def single_camera_identities(split: Split) -> int:
    """Identities that only one camera has seen."""
    known = split.pids != UNKNOWN
    pairs = np.unique(np.stack([split.pids[known], split.cams[known]], 1), axis=0)
    return int((np.unique(pairs[:, 0], return_counts=True)[1] == 1).sum())


def queries_without_match(query: Split, gallery: Split) -> int:
    """Queries whose identity no other camera of the gallery has seen; evaluation leaves them out."""
    seen: dict[int, set[int]] = {}
    for pid, cam in zip(gallery.pids.tolist(), gallery.cams.tolist()):
        seen.setdefault(pid, set()).add(cam)
    pairs = zip(query.pids.tolist(), query.cams.tolist())
    return sum(not seen.get(pid, set()) - {cam} for pid, cam in pairs)


def heads(paths: Sequence[str]) -> tuple[str, int]:
    """Smallest and largest width x height of the files that have a readable head, and how many lie on their side."""
    sizes, turned = [], 0
    for path in paths:
        try:
            with os.fdopen(open_regular(path), "rb") as file, Image.open(file) as image:
                sizes.append(upright_size(image))
                turned += image.format == "JPEG" and image.getexif().get(ORIENTATION, 1) != 1
        except Exception:  # Pillow's plugins raise nearly anything on damaged files
            continue
    if not sizes:
        return "-", 0
    (low_w, low_h), (high_w, high_h) = np.min(sizes, 0), np.max(sizes, 0)
    return f"{low_w}x{low_h}" + ("" if (low_w, low_h) == (high_w, high_h) else f"-{high_w}x{high_h}"), turned


def repeated(splits: Splits) -> list[str]:
    """Images of the same content: how many within a part, and in two parts at once."""
    parts = [part for part in PARTS for _ in getattr(splits, part).paths]
    paths = [path for part in PARTS for path in getattr(splits, part).paths]
    lines = []
    groups = same_content(paths)
    for i, first in enumerate(PARTS):
        for second in PARTS[i:]:
            pairs = [pair for group in groups if (pair := _pair(group, parts, first, second))]
            if not pairs:
                continue
            where = f"more than once in {first}" if first == second else f"both in {first} and in {second}"
            lines.append(f"  images that are {where}: {len(pairs):,}")
            lines += [f"    {paths[a]} = {paths[b]}" for a, b in pairs[:3]]
    return lines


def _pair(group: list[int], parts: list[str], first: str, second: str) -> tuple[int, int] | None:
    """One image of each of two parts (two of the same one) in a group of equal files."""
    here = [i for i in group if parts[i] == first]
    there = here[1:] if first == second else [i for i in group if parts[i] == second]
    return (here[0], there[0]) if here and there else None


def per_camera(splits: Splits) -> str:
    """How many images each camera has, over all parts."""
    cams = np.concatenate([getattr(splits, part).cams for part in PARTS])
    numbers, counts = np.unique(cams, return_counts=True)
    named = [
        (f"{number} ({splits.cameras[number]})" if number in splits.cameras else str(number), count)
        for number, count in zip(numbers.tolist(), counts.tolist())
    ]
    more = f", and {len(named) - NAMED} more cameras" if len(named) > NAMED else ""
    named = [("unknown" if name == str(UNKNOWN) else name, count) for name, count in named]
    return ", ".join(f"{name} {count:,}" for name, count in named[:NAMED]) + more


def table(splits: Splits) -> tuple[list[str], int]:
    """Sizes of the three parts, a line each, and how many photographs lie on their side."""
    lines = [
        f"  {'':8}{'identities':>11}{'images':>9}{'cameras':>9}{'in 1 camera':>13}{'junk':>7}  width x height"
    ]
    all_turned = 0
    for part in PARTS:
        split: Split = getattr(splits, part)
        if not len(split):
            lines.append(f"  {part:8}{'none':>11}" + (f"{split.junk:>38,}" if split.junk else ""))
            continue
        sizes, turned = heads(split.paths)
        all_turned += turned
        identities = f"{split.num_identities:,}" if split.num_identities else "unknown"
        lines.append(
            f"  {part:8}{identities:>11}{len(split):>9,}{split.num_cameras:>9}"
            f"{single_camera_identities(split):>13,}{split.junk:>7,}  {sizes}"
        )
    return lines, all_turned


def report(splits: Splits, workers: int, tried: bool) -> list[str]:
    """A table of the three splits, and what is odd about them."""
    lines, turned = table(splits)
    lines = [
        f"{splits.name}  {splits.root}",
        *lines,
        f"  images of each camera (number, count): {per_camera(splits)}",
    ]
    if unknown := int((splits.train.pids == UNKNOWN).sum()):
        lines.append(
            f"  images of unknown identity (-1): {unknown:,}; a target may have them, a source goes without"
        )
    if splits.scored:
        unmatched = queries_without_match(splits.query, splits.gallery)
        lines.append(f"  queries without a match in another camera: {unmatched:,} of {len(splits.query):,}")
    else:
        lines.append("  no query and gallery with identities: nothing can be scored")
    if turned:
        lines.append(f"  photographs turned upright (EXIF orientation): {turned:,}")
    return (
        lines
        + (checked_files(splits, workers) if tried else ["  files that do not decode: not tried"])
        + [f"  warning: {warning}" for warning in splits.warnings]
    )


def checked_files(splits: Splits, workers: int) -> list[str]:
    """Files that do not decode, and images that are there more than once."""
    bad: list[tuple[str, str]] = []
    for part in PARTS:
        paths = getattr(splits, part).paths
        corrupt = corrupt_rows(ImageFiles(paths, (*SMALL, "bilinear"), workers, True).decode())
        bad += [(paths[row], why) for row, why in sorted(corrupt.items())]
    lines = [f"  files that do not decode: {len(bad)}"]
    lines += [f"    {path}  {why}" for path, why in bad[:NAMED]]
    lines += [f"    and {len(bad) - NAMED:,} more"] * (len(bad) > NAMED)
    return lines + (repeated(splits) or ["  images that are there twice: 0"])


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of the rows, evenly spread over them."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def contact_sheet(splits: Splits, identities: int = 8, images: int = 12) -> Image.Image:
    """Identities of the training split, a row each, their images in the order of cameras, the camera beneath.

    Where no identity is known each row is a camera; without training images the gallery is shown.
    """
    height, width = TILE
    split = splits.train if len(splits.train) else splits.gallery
    keys = split.pids if split.num_identities else split.cams
    chosen = spread(np.unique(keys[keys != UNKNOWN]) if split.num_identities else np.unique(keys), identities)
    sheet = Image.new("RGB", ((width + 4) * images, (height + 16) * len(chosen)), "white")
    draw = ImageDraw.Draw(sheet)
    for line, key in enumerate(chosen):
        rows = np.flatnonzero(keys == key)
        rows = spread(rows[np.argsort(split.cams[rows], kind="stable")], images)
        for column, row in enumerate(rows):
            corner = (column * (width + 4), line * (height + 16))
            try:
                pixels = decode(split.paths[row], height, width)
                sheet.paste(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))), corner)
            except (OSError, SyntaxError, ValueError):
                draw.rectangle((*corner, corner[0] + width, corner[1] + height), outline="red")
            draw.text((corner[0] + 2, corner[1] + height), f"c{split.cams[row]}", fill="black")
    return sheet


def sheet_name(name: str, subset: str) -> str:
    """What the contact sheet of a dataset is called: "market", "cuhk-labeled", "folder-mine"."""
    kind, tail = canonical(name)
    parts = [kind] + [subset] * (kind == "cuhk") + [Path(tail).stem] * bool(tail)
    return re.sub(r"[^\w.-]+", "-", "-".join(parts))


def found_below(root: Path) -> list[tuple[str, str]]:
    """(name, subset) of every published dataset that lies below the root."""
    found = []
    for name in resolver.LAYOUTS:
        for subset in ("labeled", "detected") if name == "cuhk" else ("labeled",):
            try:
                path, _ = resolver.find(name, root, subset=subset)
            except DatasetError:
                continue
            if path != root:  # the root itself could be any of them: name it
                found.append((name, subset))
    return found


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="crossreid datasets", description="Check datasets and draw a contact sheet of each."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="market, duke, csv:FILE, folder:FOLDER, cameras:FOLDER, ..."
    )
    parser.add_argument("--root", type=Path, help="folder of the datasets (default: REID_DATASETS or ./data)")
    parser.add_argument("--subset", choices=("labeled", "detected"), default="labeled", help="of CUHK03-NP")
    parser.add_argument(
        "--output", type=Path, default=Path("logs/datasets"), help="folder for contact sheets"
    )
    parser.add_argument("--no-decode", action="store_true", help="do not decode or compare the files")
    parser.add_argument("--workers", type=int, default=available_cores(), help="decoding processes")
    return parser.parse_args(arguments)


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command; ``arguments`` default to the command line's."""
    logging.getLogger("crossreid.datasets").setLevel(logging.ERROR)  # its warnings are part of the table
    options = _parse(arguments)
    root = options.root or resolver.default_root()
    wanted = [(name, options.subset) for name in options.names] or found_below(root)
    if not wanted:
        raise DatasetError(f"no published dataset found below {root}; name one to see which paths are tried")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f"--output {options.output} cannot be made: {error}") from None
    for name, subset in wanted:
        splits = load(name, root, subset=subset, missing="keep")
        print("\n".join(report(splits, options.workers, not options.no_decode)))
        path = options.output / f"{sheet_name(name, subset)}.png"
        try:
            contact_sheet(splits).save(path)
        except OSError as error:
            raise DatasetError(f"the contact sheet {path} cannot be written: {error}") from None
        print(f"  contact sheet: {path}\n")
