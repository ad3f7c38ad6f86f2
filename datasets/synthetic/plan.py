"""Which pictures a domain has: identities, tracks, queries, junk and distractors, under Market-1501 names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .person import generator, pick

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
JUNK, DISTRACTOR = -1, 0
JUNK_SHARE, DISTRACTOR_SHARE = 0.17, 0.2  # for each good gallery picture


@dataclass(frozen=True)
class Sizes:
    """All that a domain's pictures depend on, beside its name."""

    identities: int
    test_identities: int
    cameras: int
    seed: int
    height: int
    width: int


@dataclass(frozen=True)
class Shot:
    """One picture to be taken."""

    folder: str
    name: str
    pid: int
    camera: int  # from 0
    frame: int  # of the track


@dataclass(frozen=True)
class Job:
    """Pictures that are taken together: all of one identity, or one junk or distractor picture."""

    key: int
    shots: tuple[Shot, ...]


def _name(pid: int, camera: int, sequence: int, frame: int, box: int) -> str:
    label = "-1" if pid == JUNK else f"{pid:04d}"
    return f"{label}_c{camera + 1}s{sequence}_{frame:06d}_{box:02d}.jpg"


def _identity(rng: np.random.Generator, pid: int, cameras: int, test: bool) -> Iterator[Shot]:
    """Train: 3-5 cameras, 3-5 pictures each. Test: 2-5 cameras; the first of 3-4 pictures is the query."""
    spread = {"2": 0.25, "3": 0.4, "4": 0.3, "5": 0.05} if test else {"3": 0.4, "4": 0.35, "5": 0.25}
    seen = min(int(pick(rng, spread)), cameras)
    for camera in sorted(rng.permutation(cameras)[:seen].tolist()):
        count = int(rng.integers(3, 5)) if test else int(rng.integers(3, 6))
        sequence, start, step = (
            int(rng.integers(1, 7)),
            int(rng.integers(1, 90_000)),
            int(rng.integers(8, 30)),
        )
        chosen = int(rng.integers(count)) if test else -1
        for frame in range(count):
            folder = TRAIN if not test else QUERY if frame == chosen else GALLERY
            name = _name(pid, camera, sequence, start + frame * step, 0 if folder == QUERY else 1)
            yield Shot(folder, name, pid, camera, frame)


def make_plan(domain: str, sizes: Sizes) -> list[Job]:
    """List the pictures of a domain.

    Args:
        domain: its name, part of the seed.
        sizes: how many.

    Returns:
        Jobs in a fixed order; file names are unique in their folder.
    """
    rng = generator(sizes.seed, domain, "plan")
    total = sizes.identities + sizes.test_identities
    pids = 1 + rng.permutation(total)
    train, test = sorted(pids[: sizes.identities].tolist()), sorted(pids[sizes.identities :].tolist())
    jobs = [Job(pid, tuple(_identity(rng, pid, sizes.cameras, False))) for pid in train]
    jobs += [Job(pid, tuple(_identity(rng, pid, sizes.cameras, True))) for pid in test]
    good = sum(shot.folder == GALLERY for job in jobs for shot in job.shots)
    key = total
    for pid, share in ((JUNK, JUNK_SHARE), (DISTRACTOR, DISTRACTOR_SHARE)):
        for number in range(round(share * good)):
            key += 1
            camera, sequence = int(rng.integers(sizes.cameras)), int(rng.integers(1, 7))
            name = _name(pid, camera, sequence, 100_000 + number, int(rng.integers(1, 7)))
            jobs.append(Job(key, (Shot(GALLERY, name, pid, camera, 0),)))
    return jobs
