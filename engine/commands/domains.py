"""Draw the built-in domains to disk, and a picture of what they look like.

crossreid domains summer winter --root data --identities 200 --test-identities 100 --workers 2
crossreid domains --sheet-only docs/img/domains.png --persons 3 --frames 1 --across 2
"""

from __future__ import annotations

import argparse
import io
import time

from PIL import Image

from crossreid.datasets import DatasetError
from crossreid.datasets.built_in import check, ensure
from crossreid.datasets.synthetic import DOMAINS, Sizes, Studio
from crossreid.engine.errors import fail


def _block(domain: str, sizes: Sizes, persons: int, frames: int) -> Image.Image:
    """One domain: a row a person, `frames` pictures from each camera."""
    step, row = frames * (sizes.width + 1) + 4, sizes.height + 2
    block = Image.new("RGB", (step * sizes.cameras - 4, row * persons), "white")
    studio = Studio(domain, sizes)
    for person in range(persons):
        for camera in range(sizes.cameras):
            for frame, data in enumerate(studio.sample(person, camera, frames)):
                block.paste(
                    Image.open(io.BytesIO(data)), (camera * step + frame * (sizes.width + 1), person * row)
                )
    return block


def sheet(domains: list[str], sizes: Sizes, *, persons: int, frames: int, across: int) -> Image.Image:
    """Blocks of all domains, `across` of them side by side; 22 steps a colour keep the file small."""
    blocks = [_block(domain, sizes, persons, frames) for domain in domains]
    width, height = blocks[0].width + 12, blocks[0].height + 10
    rows = -(-len(blocks) // across)
    picture = Image.new("RGB", (width * min(across, len(blocks)) - 12, height * rows - 10), "white")
    for index, block in enumerate(blocks):
        picture.paste(block, (index % across * width, index // across * height))
    return picture.point(lambda value: min(value // 12 * 12 + 6, 255))


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="crossreid domains", description="Draw built-in domains to disk in Market-1501 layout."
    )
    names = " ".join(DOMAINS)
    parser.add_argument("domains", nargs="*", metavar="DOMAIN", help=f"of {names} (default: all)")
    parser.add_argument("--root", default="data", help="data folder (default: data)")
    parser.add_argument("--identities", type=int, default=200, help="of the training part (default: 200)")
    parser.add_argument(
        "--test-identities", type=int, default=100, help="of query and gallery (default: 100)"
    )
    parser.add_argument("--cameras", type=int, default=6, help="default: 6")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(128, 64), metavar=("HEIGHT", "WIDTH"), help="pixels"
    )
    parser.add_argument("--workers", type=int, help="processes (default: the cores there are, 8 at most)")
    parser.add_argument("--sheet", metavar="PNG", help="also save a picture: a row a person, all cameras")
    parser.add_argument("--sheet-only", metavar="PNG", help="save that picture and draw nothing else")
    parser.add_argument("--persons", type=int, default=8, help="of the picture, for each domain (default: 8)")
    parser.add_argument("--frames", type=int, default=2, help="of each person and camera (default: 2)")
    parser.add_argument("--across", type=int, default=1, help="domains side by side (default: 1)")
    return parser.parse_args(arguments)


def _draw(domain: str, args: argparse.Namespace) -> None:
    start = time.perf_counter()
    folder = ensure(
        domain,
        args.root,
        identities=args.identities,
        test_identities=args.test_identities,
        cameras=args.cameras,
        seed=args.seed,
        height=args.size[0],
        width=args.size[1],
        workers=args.workers,
    )
    seconds = time.perf_counter() - start
    parts = sorted(part for part in folder.iterdir() if part.is_dir())
    counts = {part.name: sum(1 for _ in part.glob("*.jpg")) for part in parts}
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    print(f"{folder}: {listed}; {seconds:.1f} s, {sum(counts.values()) / seconds:.0f} images/s")


def main(arguments: list[str] | None = None) -> None:
    """The command; bad input ends in one line and exit code 2."""
    try:
        _main(_arguments(arguments))
    except (DatasetError, OSError) as error:
        fail(error)


def _main(args: argparse.Namespace) -> None:
    names = args.domains or list(DOMAINS)
    sizes = Sizes(args.identities, args.test_identities, args.cameras, args.seed, *args.size)
    for name in names:
        check(name, sizes, args.workers)
    if min(args.persons, args.frames, args.across) < 1:
        raise DatasetError("--persons, --frames and --across must be 1 or more")
    if not args.sheet_only:
        for name in names:
            _draw(name, args)
    target = args.sheet_only or args.sheet
    if target:
        sheet(names, sizes, persons=args.persons, frames=args.frames, across=args.across).save(
            target, optimize=True
        )
        print(f"picture: {target}")
