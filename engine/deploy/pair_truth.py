"""What is known of photos: which pairs are of one person, which of different people, and what is independent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.features import Features

STRETCHES = 20  # of a camera's time, for resampling
Array = NDArray[Any]


@dataclass(frozen=True)
class Truth:
    """What is known of N photos.

    Args:
        groups: [N] photos of one group are of one person (an identity or a track); -1: unknown.
        cameras: [N].
        starts, ends: [N] when the photo's track was seen, for pairs by moment; None: groups are identities.
        units: [N] what is drawn anew for intervals: an identity, a track or, of photos whose people are unknown, a
            stretch of time in a camera, since neighbouring moments show the same people.
        assumption: in words.
    """

    groups: Array
    cameras: Array
    starts: Array | None
    ends: Array | None
    units: Array
    assumption: str

    def take(self, rows: Array, assumption: str) -> Truth:
        """The same of some photos."""
        starts, ends = (None if a is None else a[rows] for a in (self.starts, self.ends))
        return Truth(self.groups[rows], self.cameras[rows], starts, ends, self.units[rows], assumption)

    def pairs(self, row: int) -> tuple[Array, Array]:
        """Masks [N] of the photos that show the same person as photo ``row``, and of those that show another."""
        known = self.groups >= 0
        equal = known & (self.groups == self.groups[row]) & (self.groups[row] >= 0)
        if self.starts is None or self.ends is None:
            here = known[row] & known
            return equal & (self.cameras != self.cameras[row]), here & ~equal
        together = (self.starts <= self.ends[row]) & (self.ends >= self.starts[row])  # False for NaN
        return equal, ~equal & together & (self.cameras == self.cameras[row])


def from_labels(pids: Array, cameras: Array) -> Truth:
    """Labelled pairs: one person across cameras against different people; -1 is left out."""
    words = "identities as labelled; pairs of one person are across cameras"
    return Truth(pids, cameras, None, None, _units(pids), words)


def _units(groups: Array) -> Array:
    """Groups, and a unit of its own for each photo of an unknown one."""
    return np.where(groups >= 0, groups, groups.max(initial=-1) + 1 + np.arange(len(groups)))


def _stretches(cameras: Array, times: Array) -> Array:
    """[N] codes of stretches of time: the moments of a camera cut into 20, each with the same number of moments."""
    units = np.arange(len(cameras))  # photos without a time are in no pair
    for camera in np.unique(cameras):
        rows = np.flatnonzero((cameras == camera) & ~np.isnan(times))
        if not len(rows):
            continue
        moments, place = np.unique(times[rows], return_inverse=True)
        units[rows] = rows[0] + len(cameras) * (1 + place * STRETCHES // len(moments))
    return units


def from_cameras(
    cameras: Array, times: Array, tracks: Array, *, distinct: bool = False, origin: str = "the photos"
) -> Truth:
    """Pairs without labels: photos of one camera at one moment are different people, a track is one person.

    Args:
        cameras: [N].
        times: [N]; NaN: unknown.
        tracks: [N] codes; -1: unknown.
        distinct: assume that every two photos of one camera outside a track are different people, whatever the time.

    Raises:
        InputError: neither times nor ``distinct``: nothing tells different people apart.
    """
    starts, ends = times.astype(np.float64).copy(), times.astype(np.float64).copy()
    for track in np.unique(tracks[tracks >= 0]):
        rows = tracks == track
        if not np.isnan(times[rows]).all():
            starts[rows], ends[rows] = np.nanmin(times[rows]), np.nanmax(times[rows])
    if distinct:
        starts, ends = np.zeros(len(times)), np.zeros(len(times))
        words = "every two photos of one camera that are not of one track are different people"
    elif np.isnan(starts).all():
        raise InputError(
            f"{origin}: neither identities nor times are known, so that nothing shows which photos are of different "
            "people: give a CSV with pid or time, or assume that all photos of a camera are different people with "
            "--distinct"
        )
    else:
        words = "photos or tracks of one camera at the same moment are different people"
    words += (
        "; photos of a track are one person" if (tracks >= 0).any() else "; no pairs of one person are known"
    )
    alone = _units(tracks) if distinct else _stretches(cameras, starts) + tracks.max(initial=-1) + 1
    return Truth(tracks, cameras, starts, ends, np.where(tracks >= 0, tracks, alone), words)


def labelled(query: Features, gallery: Features) -> tuple[Array, Array, Array]:
    """Unit vectors, identities and cameras of query and gallery photos of known people.

    Junk, and gallery photos whose identity no query has, are left out: datasets gather distractors of many people under
    one such number (0 in Market-1501).
    """
    pids, cams = (torch.cat([getattr(query, n), getattr(gallery, n)]).cpu() for n in ("pids", "cams"))
    vectors = F.normalize(torch.cat([query.vectors.float(), gallery.vectors.float()]).cpu())
    good = torch.isin(pids, query.pids[query.pids >= 0].cpu())
    return vectors[good].numpy(), pids[good].numpy(), cams[good].numpy()
