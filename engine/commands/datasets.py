"""Look at datasets before training: sizes, odd identities, unreadable files, a contact sheet each.

crossreid datasets                           every dataset found below REID_DATASETS or ./data
crossreid datasets market csv:own/list.csv --root /data --output sheets
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from crossreid.datasets import DatasetError, Split, Splits, load, resolver
from crossreid.datasets.decode import decode
from crossreid.datasets.pool import available_cores
from crossreid.datasets.store import decode_all
from crossreid.engine.errors import guarded

TILE = (128, 64)  # height, width of a picture on a contact sheet
SMALL = (16, 8)  # size that files are decoded to when they are only tried


def single_camera_identities(split: Split) -> int:
    """Identities that only one camera has seen."""
    pairs = np.unique(np.stack([split.pids, split.cams], 1), axis=0)
    return int((np.unique(pairs[:, 0], return_counts=True)[1] == 1).sum())


def queries_without_match(query: Split, gallery: Split) -> int:
    """Queries whose identity no other camera of the gallery has seen; evaluation leaves them out."""
    seen: dict[int, set[int]] = {}
    for pid, cam in zip(gallery.pids.tolist(), gallery.cams.tolist()):
        seen.setdefault(pid, set()).add(cam)
    pairs = zip(query.pids.tolist(), query.cams.tolist())
    return sum(not seen.get(pid, set()) - {cam} for pid, cam in pairs)


def size_range(paths: Sequence[str]) -> str:
    """Smallest and largest width x height of the files that have a readable head."""
    sizes = []
    for path in paths:
        try:
            with Image.open(path) as image:
                sizes.append(image.size)
        except OSError:
            continue
    if not sizes:
        return "-"
    (low_w, low_h), (high_w, high_h) = np.min(sizes, 0), np.max(sizes, 0)
    return f"{low_w}x{low_h}" + ("" if (low_w, low_h) == (high_w, high_h) else f"-{high_w}x{high_h}")


def report(splits: Splits, workers: int, tried: bool) -> list[str]:
    """A table of the three splits, and what is odd about them."""
    lines = [f"{splits.name}  {splits.root}"]
    lines.append(
        f"  {'':8}{'identities':>11}{'images':>9}{'cameras':>9}{'in 1 camera':>13}{'junk':>7}  width x height"
    )
    bad: list[tuple[str, str]] = []
    parts = {"train": splits.train, "query": splits.query, "gallery": splits.gallery}
    for part, split in parts.items():
        lines.append(
            f"  {part:8}{split.num_identities:>11,}{len(split):>9,}{split.num_cameras:>9}"
            f"{single_camera_identities(split):>13,}{split.junk:>7,}  {size_range(split.paths)}"
        )
        if tried:
            corrupt = decode_all(split.paths, (*SMALL, "bilinear"), "", workers, True)[1]
            bad += [(split.paths[row], why) for row, why in sorted(corrupt.items())]
    unmatched = queries_without_match(splits.query, splits.gallery)
    lines.append(f"  queries without a match in another camera: {unmatched:,} of {len(splits.query):,}")
    lines.append(f"  files that do not decode: {len(bad) if tried else 'not tried'}")
    lines += [f"    {path}  {why}" for path, why in bad[:20]]
    lines += [f"    and {len(bad) - 20:,} more"] * (len(bad) > 20)
    return lines + [f"  warning: {warning}" for warning in splits.warnings]


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of the rows, evenly spread over them."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def contact_sheet(splits: Splits, identities: int = 8, images: int = 12) -> Image.Image:
    """Identities of the training split, a row each, their images in the order of cameras, the camera beneath."""
    height, width = TILE
    split = splits.train
    chosen = spread(np.unique(split.pids), identities)
    sheet = Image.new("RGB", ((width + 4) * images, (height + 16) * len(chosen)), "white")
    draw = ImageDraw.Draw(sheet)
    for line, pid in enumerate(chosen):
        rows = np.flatnonzero(split.pids == pid)
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


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="crossreid datasets", description="Check datasets and draw a contact sheet of each."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="market, duke, synthetic:summer, csv:FILE, ..."
    )
    parser.add_argument("--root", type=Path, help="folder of the datasets (default: REID_DATASETS or ./data)")
    parser.add_argument("--subset", choices=("labeled", "detected"), default="labeled", help="of CUHK03-NP")
    parser.add_argument(
        "--output", type=Path, default=Path("logs/datasets"), help="folder for contact sheets"
    )
    parser.add_argument("--no-decode", action="store_true", help="do not try to decode every file")
    parser.add_argument("--workers", type=int, default=available_cores(), help="decoding processes")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """The command; bad input ends in one line and exit code 2."""
    logging.getLogger("crossreid.datasets").setLevel(logging.ERROR)  # its warnings are part of the table
    guarded(lambda: _main(_arguments(arguments)))


def _main(arguments: argparse.Namespace) -> None:
    root = arguments.root or resolver.default_root()
    wanted = [(name, arguments.subset) for name in arguments.names] or found_below(root)
    if not wanted:
        raise DatasetError(f"no published dataset found below {root}; name one to see which paths are tried")
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f"--output {arguments.output} cannot be made: {error}") from None
    for name, subset in wanted:
        splits = load(name, root, subset=subset)
        print("\n".join(report(splits, arguments.workers, not arguments.no_decode)))
        label = splits.name.replace(":", "-") + (f"-{subset}" if splits.name == "cuhk" else "")
        path = arguments.output / f"{label}.png"
        contact_sheet(splits).save(path)
        print(f"  contact sheet: {path}\n")
