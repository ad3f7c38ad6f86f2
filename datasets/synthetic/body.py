"""From a person and a pose to shapes: a walking skeleton in 2.5 D, clothed and put on a stage."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .bags import BAGS
from .drawing import Array, Paint
from .head import draw_head
from .person import BULK, Person
from .stage import Joint, Stage, View, between, toward
from .track import Pose

THIGH, SHIN, UPPER_ARM, FOREARM, TORSO = 0.235, 0.245, 0.165, 0.145, 0.29  # lengths in body heights
HIP = THIGH + SHIN + 0.035  # height of the hip before the feet are put on the ground
_TIGHTS = Paint((0.09, 0.09, 0.11), fold=0.1)
_LOOSE = {"slim": 0.0, "trousers": 0.008, "wide": 0.017, "shorts": 0.016}


def _legs(stage: Stage) -> None:
    person, pose = stage.person, stage.pose
    legs: list[tuple[Joint, Joint, Joint, Joint]] = []
    for side in (1, -1):
        thigh = side * pose.stride * math.sin(pose.phase) + 0.04
        flex = 0.06 + pose.stride * (0.15 + 1.1 * max(0.0, side * math.cos(pose.phase)))
        hip = (side * 0.52 * person.hips, HIP, 0.0)
        knee = toward(hip, THIGH, thigh)
        ankle = toward(knee, SHIN, thigh - flex)
        foot = min(0.0, 0.9 * (thigh - flex) + 0.1) + 0.12 * max(0.0, thigh)
        toe = (1.25 * ankle[0], ankle[1] - 0.022 + 0.085 * math.sin(foot), ankle[2] + 0.085 * math.cos(foot))
        legs.append((hip, knee, ankle, toe))
    stage.ground = min(min(ankle[1] - 0.03, toe[1] - 0.012) for _, _, ankle, toe in legs)
    for hip, knee, ankle, toe in legs:
        _leg(stage, hip, knee, ankle, toe)


def _leg(stage: Stage, hip: Joint, knee: Joint, ankle: Joint, toe: Joint) -> None:
    person, wide = stage.person, stage.person.build
    cloth, shoe = person.lower_paint, Paint(person.shoe, fold=0.06)
    loose = _LOOSE.get(person.lower, 0.0)
    covered = person.lower in _LOOSE and person.lower_length > 0.95
    bare = _TIGHTS if person.tights else person.skin
    extra, paint = (loose, cloth) if covered else (0.0, bare)
    thigh, over, calf, thin = 0.05 * wide, 0.034 * wide, 0.033 * wide, 0.021 * wide
    below = -0.25 if person.lower in ("skirt", "bare") or person.upper == "coat" else 0.0  # under the skirt
    stage.limb(hip, knee, (thigh + 0.3 * extra, over + extra), paint, bias=below)
    radii = (over + extra, calf + 1.05 * extra, thin + 1.35 * extra)
    stage.limb(
        knee, between(knee, ankle, 1.02), radii, paint, bias=below - 0.004, cap=1.0 if extra < 0.01 else 0.5
    )
    if person.lower in _LOOSE and not covered:
        hem = between(hip, knee, person.lower_length * (THIGH + SHIN) / THIGH)
        stage.limb(hip, hem, (thigh + 0.004, over + loose), cloth, bias=0.004, cap=0.25)
    heel = (ankle[0], ankle[1] - 0.014, ankle[2] - 0.018)
    stage.limb(heel, toe, (0.023, 0.018), shoe, bias=below + 0.003)
    if person.boots:
        stage.limb(between(ankle, knee, 0.45), heel, (0.031 * wide, 0.026), shoe, bias=below + 0.005, cap=0.4)


def _below_the_waist(stage: Stage, sway: float) -> None:
    person, wide, bulk = stage.person, stage.person.build, BULK[stage.person.upper]
    waist: Joint = (0.0, HIP + 0.07, 0.07 * stage.pose.lean)
    if person.lower == "skirt":
        length = person.lower_length * (THIGH + SHIN)
        flare = 0.02 + 0.06 * person.bag_size * person.lower_length
        rings = (
            (0.075 * wide, 0.06 * wide),
            (person.hips * wide + 0.006, 0.075 * wide + 0.1 * sway),
            (person.hips * wide + flare, 0.075 * wide + flare + 0.4 * sway),
        )
        end, bias, cap = HIP - length, 0.06, 0.12
    elif person.lower == "bare":
        return
    else:
        rings = (0.075 * wide, 0.06 * wide), (person.hips * wide, 0.07 * wide), (0.07 * wide, 0.06 * wide)
        end, bias, cap = HIP - 0.045, 0.0, 0.6
    radii = tuple(stage.breadth(lateral + bulk, deep + bulk) for lateral, deep in rings)
    stage.limb(waist, (0.0, end, 0.0), radii, person.lower_paint, bias=bias, cap=cap)


def _torso(stage: Stage, sway: float) -> Joint:
    """The upper garment; returns the point between the shoulders."""
    person, wide, bulk = stage.person, stage.person.build, BULK[stage.person.upper]
    lean = 0.03 + stage.pose.lean
    top: Joint = (0.0, HIP + TORSO + 0.023, TORSO * lean)
    shoulders = person.shoulders * (0.6 + 0.4 * wide)
    skirted = person.upper in ("dress", "coat")
    flare = 0.012 + (0.3 * person.hem if person.upper == "dress" else 0.1 * person.hem if skirted else 0.0)
    spread = 1.6 * sway * person.hem if skirted else 0.0
    rings = (  # distance below the top, half-widths sideways and in depth
        (0.0, 0.036, 0.036),
        (0.016, 0.072, 0.045),
        (0.036, shoulders, 0.056 * wide),
        (0.075, shoulders * 1.03, 0.068 * wide),
        (0.12, shoulders * 0.94, 0.073 * wide),
        (0.21, (0.08 if skirted else 0.084) * wide, 0.066 * wide),
        (0.3, person.hips * wide, 0.072 * wide),
        (0.3 + max(person.hem, 0.01), person.hips * wide + flare, 0.072 * wide + flare + spread),
    )
    hem: Joint = (0.0, HIP - person.hem, 0.0)
    widths = [stage.breadth(lateral + bulk, deep + bulk) for _, lateral, deep in rings]
    places = np.linspace(0, top[1] - hem[1], 16)
    radii = tuple(np.interp(places, [place for place, _, _ in rings], widths).tolist())
    stage.limb(top, hem, radii, person.upper_paint, bias=0.065, cap=0.1)
    return 0.0, top[1] - 0.038, 0.85 * top[2]


def _arm(stage: Stage, collar: Joint, side: int) -> Joint:
    """One arm; returns where the hand is."""
    person, pose = stage.person, stage.pose
    bulk, wide = 0.55 * BULK[person.upper], person.build
    out = person.shoulders * (0.6 + 0.4 * wide) + 0.6 * bulk - 0.012
    beat = side * pose.stride * math.sin(pose.phase)
    shoulder: Joint = (side * out, collar[1], collar[2] - 0.12 * beat)
    swing, bend, spread = -0.75 * beat, 0.25 + 0.5 * pose.stride, side * (0.1 + 0.5 * bulk)
    phone = pose.hands == "phone" and side != person.bag_side
    if phone:
        swing, bend, spread = 0.35, 1.75, -side * 0.05
    elif person.bag in ("hand", "suitcase") and side == person.bag_side:
        swing, bend = 0.35 * swing, 0.12
    elif pose.hands == "pockets":
        swing, bend, spread = -0.3, 0.75, side * 0.22
    elif pose.hands == "straps" and person.bag == "backpack":
        swing, bend, spread = 0.1, 2.2, side * 0.1
    elbow = toward(shoulder, UPPER_ARM, swing, spread)
    wrist = toward(elbow, FOREARM, swing + bend, -0.6 * spread)
    hand = toward(elbow, FOREARM + 0.028, swing + bend, -0.6 * spread)
    paint = person.sleeve_paint if person.sleeve > 0.9 else person.skin
    stage.limb(shoulder, elbow, (0.026 * wide + bulk, 0.024 * wide + bulk), paint, bias=0.075)
    stage.limb(elbow, wrist, (0.024 * wide + bulk, 0.018 * wide + 0.9 * bulk), paint, bias=0.08, cap=0.8)
    if pose.hands != "pockets":
        stage.limb(wrist, hand, (0.016, 0.014), person.skin, bias=0.078)
    if 0.0 < person.sleeve < 0.9:
        radii = (0.029 * wide, 0.033 * wide)
        end = between(shoulder, elbow, 0.62)
        stage.limb(shoulder, end, radii, person.sleeve_paint, bias=0.082, cap=0.5)
    if phone:
        place = (hand[0], hand[1] + 0.02, hand[2] + 0.01)
        stage.box(place, (0.016, 0.028), (0.1, 0.1, 0.12), bias=0.085)
    return hand


def _scarf(stage: Stage, collar: Joint) -> None:
    if stage.person.scarf is None:
        return
    paint, (x, y, z) = Paint(stage.person.scarf, fold=0.3), collar
    wrap = stage.breadth(0.05, 0.05)
    stage.limb((x, y + 0.03, z), (x, y + 0.062, z + 0.01), (wrap, 0.85 * wrap), paint, bias=0.12, cap=0.7)
    end = (0.03, y - 0.14, z + 0.075 + BULK[stage.person.upper])
    stage.limb((0.02, y + 0.02, 0.06), end, (0.02, 0.022), paint, bias=0.066, cap=0.2)


_FALL = {"long": (0.15, 0.045, 0.028), "tail": (0.15, 0.018, 0.05), "bob": (0.07, 0.046, 0.028)}


def _hair(stage: Stage, head: Joint) -> None:
    """What hangs down behind the head; it is drawn over the back when we see it."""
    person = stage.person
    if person.hair_style not in _FALL or person.hat == "hood":
        return
    fall, width, back = _FALL[person.hair_style]
    start, end = (0.0, head[1], head[2] - back), (0.0, head[1] - fall, head[2] - back - 0.035)
    bias = 0.16 if stage.cos < 0.25 else -0.01
    radii = (0.9 * width, width, 0.8 * width)
    stage.limb(start, end, radii, Paint(person.hair, fold=0.3), bias=bias, cap=0.7)


def draw_person(layer: Array, person: Person, pose: Pose, view: View) -> None:
    """Draw one person into a layer.

    Args:
        layer: [5, H, W], changed in place.
        person: who.
        pose: the moment.
        view: the camera's geometry and light; `view.scale` is for a body of average height.
    """
    stage = Stage(layer, person, pose, replace(view, scale=view.scale * person.height))
    sway = 0.35 * pose.stride * abs(math.sin(pose.phase))
    _legs(stage)
    _below_the_waist(stage, sway)
    collar = _torso(stage, sway)
    hands = {side: _arm(stage, collar, side) for side in (1, -1)}
    if person.bag != "none":
        BAGS[person.bag](stage, collar, hands[person.bag_side])
    head: Joint = (0.0, collar[1] + 0.132, collar[2] + 0.018 + 0.2 * pose.lean)
    stage.limb((0.0, collar[1] + 0.045, collar[2]), head, (0.03, 0.026), person.skin, bias=0.058)
    _scarf(stage, collar)
    center, scale = stage.point(head), stage.view.scale
    stage.add(0.14, lambda: draw_head(layer, person, center, scale, pose.yaw, view.light))
    _hair(stage, head)
    stage.finish()
