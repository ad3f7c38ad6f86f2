"""Draw embedded domains to disk, and a sheet of what they look like.

python tools/make_domains.py summer winter --root data --identities 200 --test-identities 100 --sheet out.png
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets.synthetic import DOMAINS, SyntheticError, check, ensure
from datasets.synthetic.plan import Sizes
from datasets.synthetic.studio import Studio


def sheet(domains: list[str], sizes: Sizes, persons: int, frames: int) -> Image.Image:
    """A row a person, `frames` pictures from each camera, one domain below the other."""
    height, width = sizes.height, sizes.width
    step = frames * (width + 1) + 5
    picture = Image.new(
        "RGB", (step * sizes.cameras - 5, (height + 2) * persons * len(domains) + 8 * (len(domains) - 1))
    )
    picture.paste((255, 255, 255), (0, 0, *picture.size))
    top = 0
    for domain in domains:
        studio = Studio(domain, sizes)
        for person in range(persons):
            for camera in range(sizes.cameras):
                for frame, data in enumerate(studio.sample(person, camera, frames)):
                    picture.paste(Image.open(io.BytesIO(data)), (camera * step + frame * (width + 1), top))
            top += height + 2
        top += 8
    return picture


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Draw embedded domains to disk in Market-1501 layout.")
    parser.add_argument("domains", nargs="*", metavar="DOMAIN", help=f"default: all of {' '.join(DOMAINS)}")
    parser.add_argument("--root", default="data", help="data folder (data)")
    parser.add_argument("--identities", type=int, default=200, help="of the training part (200)")
    parser.add_argument("--test-identities", type=int, default=100, help="of query and gallery (100)")
    parser.add_argument("--cameras", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--size", type=int, nargs=2, default=(128, 64), metavar=("HEIGHT", "WIDTH"), help="pixels (128 64)"
    )
    parser.add_argument(
        "--workers", type=int, default=None, help="processes (the cores there are, 8 at most)"
    )
    parser.add_argument(
        "--sheet", metavar="PNG", help="draw no domain, but a sheet of persons seen by all cameras"
    )
    parser.add_argument("--persons", type=int, default=8, help="rows of the sheet for each domain (8)")
    parser.add_argument(
        "--frames", type=int, default=2, help="pictures of each person and camera on the sheet (2)"
    )
    return parser.parse_args()


def main() -> None:
    """Command line."""
    args = _arguments()
    names = args.domains or list(DOMAINS)
    height, width = args.size
    sizes = Sizes(args.identities, args.test_identities, args.cameras, args.seed, height, width)
    if args.sheet:
        for name in names:
            check(name, sizes, args.workers)
        sheet(names, sizes, args.persons, args.frames).save(args.sheet)
        print(f"sheet: {args.sheet}")
        return
    for name in names:
        start = time.perf_counter()
        folder = ensure(
            name, args.root, identities=args.identities, test_identities=args.test_identities, cameras=args.cameras,
            seed=args.seed, height=height, width=width, workers=args.workers,
        )  # fmt: skip
        counts = {
            part.name: sum(1 for _ in part.glob("*.jpg"))
            for part in sorted(folder.iterdir())
            if part.is_dir()
        }
        seconds = time.perf_counter() - start
        parts = ", ".join(f"{part} {count}" for part, count in counts.items())
        print(f"{folder}: {parts}; {seconds:.1f} s, {sum(counts.values()) / seconds:.0f} images/s")


if __name__ == "__main__":
    try:
        main()
    except (SyntheticError, OSError) as error:
        print(f"make_domains: {error}", file=sys.stderr)
        sys.exit(2)
