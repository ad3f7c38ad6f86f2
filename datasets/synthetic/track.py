"""How a person walks past one camera, and how well a detector's boxes fit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .person import pick


@dataclass(frozen=True)
class Pose:
    """One moment of a walk; angles in radians."""

    yaw: float  # 0 faces the camera, positive turns to the picture's right
    phase: float
    stride: float  # amplitude of the thighs
    lean: float
    hands: str  # swing, phone, pockets, straps


@dataclass(frozen=True)
class Track:
    """One pass of a person before one camera."""

    pose: Pose
    pace: float  # phase from frame to frame
    turn: float  # yaw from frame to frame
    drift: float  # place in the scene from frame to frame
    place: float  # 0..1 across the scene
    size: float  # height of the person in picture heights

    def at(self, frame: int, rng: np.random.Generator) -> Pose:
        """The pose in the n-th frame, a little unsteady."""
        return replace(
            self.pose,
            yaw=self.pose.yaw + self.turn * frame + 0.08 * rng.standard_normal(),
            phase=self.pose.phase + self.pace * frame + 0.2 * rng.standard_normal(),
            lean=self.pose.lean + 0.015 * rng.standard_normal(),
        )


def make_track(rng: np.random.Generator, views: tuple[float, ...], size: float) -> Track:
    """Draw a pass: a viewpoint near one of the camera's preferred ones, a walking phase, a place.

    Args:
        rng: source of randomness of this pass.
        views: preferred yaws in radians.
        size: usual height of people in this camera, in picture heights.
    """
    yaw = views[int(rng.integers(len(views)))] + 0.35 * rng.standard_normal()
    if rng.random() < 0.15:
        yaw = rng.uniform(-math.pi, math.pi)
    hands = pick(rng, {"swing": 6.0, "phone": 1.2, "pockets": 1.5, "straps": 0.6})
    pose = Pose(
        yaw, rng.uniform(0, 2 * math.pi), float(rng.uniform(0.12, 0.52)), 0.03 * rng.standard_normal(), hands
    )
    return Track(
        pose,
        pace=float(rng.uniform(0.5, 2.2)),
        turn=0.1 * rng.standard_normal(),
        drift=0.02 * rng.standard_normal(),
        place=float(rng.random()),
        size=size * float(rng.uniform(0.93, 1.06)),
    )


@dataclass(frozen=True)
class Box:
    """Where a detector's box lies: the person's size and place in the picture."""

    size: float  # body height in picture heights
    x: float  # in picture widths
    y: float  # of the feet, in picture heights


def usual_box(rng: np.random.Generator, track: Track) -> Box:
    """A detector's box around a person: good, now and then sloppy."""
    loose = 2.2 if rng.random() < 0.12 else 1.0
    return Box(
        track.size * (1 + 0.03 * loose * rng.standard_normal()),
        0.5 + 0.05 * loose * rng.standard_normal(),
        0.95 + 0.018 * loose * rng.standard_normal(),
    )


def bad_box(rng: np.random.Generator) -> Box:
    """A box that shows a part of somebody."""
    if rng.random() < 0.5:  # half out of the picture
        side = 0.5 + (1 if rng.random() < 0.5 else -1) * rng.uniform(0.35, 0.6)
        return Box(rng.uniform(0.8, 1.1), side, rng.uniform(0.85, 1.1))
    return Box(rng.uniform(1.5, 2.4), rng.uniform(0.3, 0.7), rng.uniform(1.1, 2.1))
