"""From a person and a pose to shapes: a skeleton in 2.5 D, drawn back to front."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .drawing import Array, Light, Paint, Point, panel, strip
from .head import draw_head
from .person import BULK, Person, Pose

Joint = tuple[float, float, float]  # to the person's left, up, forward; in body heights
THIGH, SHIN, UPPER_ARM, FOREARM = 0.235, 0.245, 0.165, 0.145
TORSO = 0.29  # from the hip to the shoulder


@dataclass(frozen=True)
class View:
    """How a camera sees the walker: pixels a body height, place of the feet, tilt downwards, light."""

    scale: float
    x: float
    y: float
    pitch: float
    light: Light


class _Stage:
    """Projects joints and collects shapes, to be drawn by depth."""

    def __init__(self, layer: Array, person: Person, pose: Pose, view: View) -> None:
        self.layer, self.person, self.pose, self.view = layer, person, pose, view
        self.cos, self.sin = math.cos(pose.yaw), math.sin(pose.yaw)
        self.tilt, self.up = math.sin(view.pitch), math.cos(view.pitch)
        self.ground = 0.0
        self.shapes: list[tuple[float, Callable[[], None]]] = []

    def depth(self, joint: Joint) -> float:
        return joint[2] * self.cos - joint[0] * self.sin

    def point(self, joint: Joint) -> Point:
        scale = self.view.scale
        x = self.view.x + scale * (joint[0] * self.cos + joint[2] * self.sin)
        rise = (joint[1] - self.ground) * self.up - self.depth(joint) * self.tilt
        return x, self.view.y - scale * rise

    def breadth(self, lateral: float, deep: float) -> float:
        """Half-width in pixels of an upright ellipse of these half-axes."""
        return self.view.scale * math.hypot(lateral * self.cos, deep * self.sin)

    def add(self, depth: float, draw: Callable[[], None]) -> None:
        self.shapes.append((depth, draw))

    def limb(
        self,
        start: Joint,
        end: Joint,
        radii: tuple[float, ...],
        paint: Paint,
        *,
        bias: float = 0.0,
        cap: float = 1.0,
    ) -> None:
        """A strip between two joints; radii in body heights."""
        depth = 0.5 * (self.depth(start) + self.depth(end))
        scale = self.view.scale
        widths = [scale * radius for radius in radii]
        shade = min(max(1.0 + 1.3 * depth, 0.72), 1.12)
        a, b = self.point(start), self.point(end)
        light, yaw = self.view.light, self.pose.yaw

        def draw() -> None:
            strip(self.layer, a, b, widths, paint, light, cap=cap, shade=shade, yaw=yaw, scale=scale)

        self.add(depth + bias, draw)

    def finish(self) -> None:
        for _, draw in sorted(self.shapes, key=lambda shape: shape[0]):
            draw()


def _toward(start: Joint, length: float, angle: float, out: float = 0.0) -> Joint:
    """The joint `length` away, hanging down and swung forward by `angle`."""
    return start[0] + out * length, start[1] - length * math.cos(angle), start[2] + length * math.sin(angle)


def _between(a: Joint, b: Joint, t: float) -> Joint:
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t


def _legs(stage: _Stage) -> None:
    person, pose = stage.person, stage.pose
    hip_height, wide = THIGH + SHIN + 0.035, person.build
    legs: list[tuple[int, Joint, Joint, Joint, Joint]] = []
    for side in (1, -1):
        thigh = side * pose.stride * math.sin(pose.phase) + 0.04
        flex = 0.06 + pose.stride * (0.15 + 1.1 * max(0.0, side * math.cos(pose.phase)))
        hip = (side * 0.52 * person.hips, hip_height, 0.0)
        knee = _toward(hip, THIGH, thigh)
        ankle = _toward(knee, SHIN, thigh - flex)
        foot = min(0.0, 0.9 * (thigh - flex) + 0.1) + 0.12 * max(0.0, thigh)
        toe = (ankle[0] * 1.25, ankle[1] - 0.022 + 0.085 * math.sin(foot), ankle[2] + 0.085 * math.cos(foot))
        legs.append((side, hip, knee, ankle, toe))
    stage.ground = min(min(leg[3][1] - 0.03, leg[4][1] - 0.012) for leg in legs)
    cloth, cover = person.lower_paint, person.lower_length
    loose = {"slim": 0.0, "trousers": 0.008, "wide": 0.017, "shorts": 0.016}.get(person.lower, 0.0)
    shoe = Paint(person.shoe, fold=0.06)
    for side, hip, knee, ankle, toe in legs:
        thick = (0.05 * wide, 0.034 * wide, 0.033 * wide, 0.021 * wide)
        dressed = person.lower not in ("skirt", "bare")
        full = dressed and cover > 0.95
        base = cloth if full else person.skin
        extra = loose if full else 0.0
        if person.lower in ("skirt", "bare") and person.scarf is not None:
            base = Paint((0.09, 0.09, 0.11), fold=0.1)  # tights
        stage.limb(hip, knee, (thick[0] + 0.3 * extra, thick[1] + extra), base)
        end = _between(knee, ankle, 1.02)
        calf = (thick[1] + extra, thick[2] + 1.05 * extra, thick[3] + 1.35 * extra)
        stage.limb(knee, end, calf, base, bias=-0.004, cap=1.0 if extra < 0.01 else 0.5)
        if dressed and not full:
            short = _between(hip, knee, cover * (THIGH + SHIN) / THIGH)
            stage.limb(hip, short, (thick[0] + 0.004, thick[1] + loose), cloth, bias=0.004, cap=0.25)
        heel = (ankle[0], ankle[1] - 0.014, ankle[2] - 0.018)
        stage.limb(heel, toe, (0.023, 0.018), shoe, bias=0.003)
        if person.boots:
            stage.limb(_between(ankle, knee, 0.45), heel, (0.031 * wide, 0.026), shoe, bias=0.005, cap=0.4)
        del side


def _torso(stage: _Stage) -> Joint:
    """Pelvis, skirt and upper garment; returns the point between the shoulders."""
    person, pose, view = stage.person, stage.pose, stage.view
    wide, bulk = person.build, BULK[person.upper]
    hip: Joint = (0.0, THIGH + SHIN + 0.035, 0.0)
    lean = 0.03 + pose.lean
    neck: Joint = (0.0, hip[1] + TORSO + 0.035, TORSO * lean)
    waist: Joint = (0.0, hip[1] + 0.07, 0.07 * lean)

    def ring(lateral: float, deep: float) -> float:
        return stage.breadth(lateral + bulk, deep + bulk) / view.scale

    if person.lower not in ("bare", "skirt"):
        crotch: Joint = (0.0, hip[1] - 0.045, 0.0)
        radii = (
            ring(0.075 * wide, 0.06 * wide),
            ring(person.hips * wide, 0.07 * wide),
            ring(0.07 * wide, 0.06 * wide),
        )
        stage.limb(waist, crotch, radii, person.lower_paint, cap=0.6)
    sway = 0.35 * pose.stride * abs(math.sin(pose.phase))
    if person.lower == "skirt":
        length = person.lower_length * (THIGH + SHIN)
        flare = 0.02 + 0.06 * person.bag_size * person.lower_length
        radii = (
            ring(0.075 * wide, 0.06 * wide),
            ring(person.hips * wide + 0.006, 0.075 * wide + 0.1 * sway),
            ring(person.hips * wide + flare, 0.075 * wide + flare + 0.4 * sway),
        )
        stage.limb(waist, (0.0, hip[1] - length, 0.0), radii, person.lower_paint, bias=0.06, cap=0.12)
    top = neck[0], neck[1] - 0.012, neck[2]
    hem: Joint = (0.0, hip[1] - person.hem, 0.0)
    shoulders = person.shoulders * (0.6 + 0.4 * wide)
    skirted = person.upper in ("dress", "coat")
    flare = 0.012 + (0.3 * person.hem if person.upper == "dress" else 0.1 * person.hem if skirted else 0.0)
    spread = 1.6 * sway * person.hem if skirted else 0.0
    waist_wide = (0.08 if skirted else 0.084) * wide
    rings = (  # distance below the top, half-widths sideways and in depth
        (0.0, 0.036, 0.036),
        (0.016, 0.072, 0.045),
        (0.036, shoulders, 0.056 * wide),
        (0.075, shoulders * 1.03, 0.068 * wide),
        (0.12, shoulders * 0.94, 0.073 * wide),
        (0.21, waist_wide, 0.066 * wide),
        (0.3, person.hips * wide, 0.072 * wide),
        (0.3 + max(person.hem, 0.01), person.hips * wide + flare, 0.072 * wide + flare + spread),
    )
    length = top[1] - hem[1]
    places = [row[0] for row in rings]
    widths = [ring(row[1], row[2]) for row in rings]
    radii = tuple(np.interp(np.linspace(0, length, 16), places, widths).tolist())
    stage.limb(top, hem, radii, person.upper_paint, bias=0.065, cap=0.1)
    return 0.0, neck[1] - 0.05, neck[2] * 0.85


def _arms(stage: _Stage, collar: Joint) -> dict[int, Joint]:
    """Both arms; returns where the hands are."""
    person, pose = stage.person, stage.pose
    hands: dict[int, Joint] = {}
    bulk, wide = 0.55 * BULK[person.upper], person.build
    for side in (1, -1):
        out = person.shoulders * (0.6 + 0.4 * wide) + 0.6 * bulk - 0.012
        shoulder: Joint = (
            side * out,
            collar[1],
            collar[2] - 0.12 * side * pose.stride * math.sin(pose.phase),
        )
        swing = -0.75 * side * pose.stride * math.sin(pose.phase)
        bend, spread = 0.25 + 0.5 * pose.stride, side * (0.1 + 0.5 * bulk)
        if pose.hands == "phone" and side == person.bag_side:
            swing, bend, spread = 0.35, 1.75, -side * 0.05
        elif pose.hands == "pockets":
            swing, bend, spread = -0.3, 0.75, side * 0.22
        elif pose.hands == "straps" and person.bag == "backpack":
            swing, bend, spread = 0.1, 2.2, side * 0.1
        elif person.bag in ("hand", "suitcase") and side == person.bag_side:
            swing, bend = 0.35 * swing, 0.12
        elbow = _toward(shoulder, UPPER_ARM, swing, spread)
        wrist = _toward(elbow, FOREARM, swing + bend, -0.6 * spread)
        hand = _toward(elbow, FOREARM + 0.028, swing + bend, -0.6 * spread)
        hands[side] = hand
        cloth, skin = person.sleeve_paint, person.skin
        sleeved = person.sleeve > 0.9
        base = cloth if sleeved else skin
        radii = (0.026 * wide + bulk, 0.024 * wide + bulk)
        stage.limb(shoulder, elbow, radii, base, bias=0.075)
        if pose.hands != "pockets":
            stage.limb(_between(wrist, hand, 0.0), hand, (0.016, 0.014), skin, bias=0.078)
        stage.limb(elbow, wrist, (0.024 * wide + bulk, 0.018 * wide + 0.9 * bulk), base, bias=0.08, cap=0.8)
        if not sleeved and person.sleeve > 0.0:
            stage.limb(
                shoulder,
                _between(shoulder, elbow, 0.62),
                (0.033 * wide, 0.034 * wide),
                cloth,
                bias=0.082,
                cap=0.5,
            )
        if pose.hands == "phone" and side == person.bag_side:
            _box(
                stage, (hand[0], hand[1] + 0.02, hand[2] + 0.01), (0.016, 0.028), (0.1, 0.1, 0.12), bias=0.085
            )
    return hands


def _box(
    stage: _Stage,
    center: Joint,
    half: Point,
    color: tuple[float, float, float],
    *,
    bias: float,
    corner: float = 0.012,
) -> None:
    point, scale, depth = stage.point(center), stage.view.scale, stage.depth(center)
    paint = Paint(color, fold=0.1, offset=stage.person.upper_paint.offset)
    shade = min(max(1.0 + 0.8 * depth, 0.75), 1.1)

    def draw() -> None:
        size = (half[0] * scale, half[1] * scale)
        panel(stage.layer, point, size, paint, stage.view.light, corner=corner * scale, shade=shade)

    stage.add(depth + bias, draw)


def _darker(color: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    return color[0] * factor, color[1] * factor, color[2] * factor


def _bag(stage: _Stage, collar: Joint, hands: dict[int, Joint]) -> None:
    person, size, color, side = (
        stage.person,
        stage.person.bag_size,
        stage.person.bag_color,
        stage.person.bag_side,
    )
    strap = Paint(_darker(color, 0.7), fold=0.0)
    turned = lambda wide, deep: stage.breadth(wide, deep) / stage.view.scale  # noqa: E731
    if person.bag == "backpack":
        gap = 0.075 * person.build + BULK[person.upper]
        middle: Joint = (0.0, collar[1] - 0.12 * size, collar[2] - gap - 0.035)
        _box(
            stage, middle, (turned(0.088 * size, 0.055 * size), 0.135 * size), color, bias=0.07, corner=0.035
        )
        pocket: Joint = (0.0, middle[1] - 0.06 * size, middle[2] - 0.03)
        _box(
            stage,
            pocket,
            (turned(0.066 * size, 0.04 * size), 0.055 * size),
            _darker(color, 0.8),
            bias=0.075,
            corner=0.02,
        )
        for x in (0.055, -0.055):
            front = 0.068 * person.build + BULK[person.upper]
            top, low = (x, collar[1] + 0.02, collar[2] + 0.02), (x * 1.2, collar[1] - 0.15, collar[2] + front)
            stage.limb(top, low, (0.011, 0.01), strap, bias=0.06)
    elif person.bag == "shoulder":
        hip: Joint = (side * (0.085 * person.build + 0.03), collar[1] - 0.3, 0.01)
        _box(stage, hip, (turned(0.032, 0.085 * size), 0.062 * size), color, bias=0.085)
        deep = 0.07 * person.build + BULK[person.upper]
        for z in (deep, -deep):
            start = (-side * 0.07, collar[1] + 0.025, 0.4 * z)
            stage.limb(start, (0.0, collar[1] - 0.13, z), (0.008, 0.008), strap, bias=0.062)
            stage.limb(
                (0.0, collar[1] - 0.13, z),
                (side * 0.085, hip[1] + 0.04, 0.6 * z),
                (0.008, 0.008),
                strap,
                bias=0.062,
            )
    elif person.bag == "hand":
        hand = hands[side]
        low = (hand[0] + 0.01 * side, hand[1] - 0.085 * size, hand[2])
        _box(stage, low, (turned(0.03, 0.085 * size), 0.06 * size), color, bias=0.088)
        stage.limb(hand, (low[0], low[1] + 0.05, low[2]), (0.008, 0.02), strap, bias=0.086)
    elif person.bag == "suitcase":
        hand = hands[side]
        middle = (hand[0] * 1.25 + 0.03 * side, stage.ground + 0.14 * size, hand[2] - 0.12)
        _box(stage, middle, (turned(0.085 * size, 0.055 * size), 0.13 * size), color, bias=0.05, corner=0.02)
        stage.limb(hand, (middle[0], middle[1] + 0.12 * size, middle[2]), (0.007, 0.007), strap, bias=0.04)


def draw_person(layer: Array, person: Person, pose: Pose, view: View) -> None:
    """Draw one person into a layer.

    Args:
        layer: [5, H, W], changed in place.
        person: who.
        pose: the moment.
        view: the camera's geometry and light; `view.scale` is for a body of average height.
    """
    stage = _Stage(layer, person, pose, replace(view, scale=view.scale * person.height))
    _legs(stage)
    collar = _torso(stage)
    hands = _arms(stage, collar)
    if person.bag != "none":
        _bag(stage, collar, hands)
    neck: Joint = (0.0, collar[1] + 0.045, collar[2])
    head: Joint = (0.0, collar[1] + 0.132, collar[2] + 0.018 + 0.2 * stage.pose.lean)
    stage.limb(neck, head, (0.03, 0.026), person.skin, bias=0.058)
    if person.scarf is not None:
        wrap = stage.breadth(0.05, 0.05) / stage.view.scale
        low, high = (0.0, collar[1] + 0.03, collar[2]), (0.0, collar[1] + 0.062, collar[2] + 0.01)
        stage.limb(low, high, (wrap, wrap * 0.85), Paint(person.scarf, fold=0.3), bias=0.12, cap=0.7)
        tail = (0.03, collar[1] - 0.14, collar[2] + 0.075 + BULK[person.upper])
        stage.limb(
            (0.02, collar[1] + 0.02, 0.06),
            tail,
            (0.02, 0.022),
            Paint(person.scarf, fold=0.3),
            bias=0.066,
            cap=0.2,
        )
    center, radius = stage.point(head), stage.view.scale

    def crown() -> None:
        draw_head(layer, person, center, radius, stage.pose.yaw, stage.view.light)

    stage.add(0.14, crown)
    if person.hair_style in ("long", "tail", "bob") and person.hat != "hood":
        fall = {"long": 0.15, "tail": 0.15, "bob": 0.07}[person.hair_style]
        width = {"long": 0.045, "tail": 0.018, "bob": 0.046}[person.hair_style]
        back = 0.05 if person.hair_style == "tail" else 0.028
        high: Joint = (0.0, head[1] + 0.0, head[2] - back)
        low = (0.0, head[1] - fall, head[2] - back - 0.035)
        above = 0.16 if stage.cos < 0.25 else -0.01
        stage.limb(
            high, low, (width * 0.9, width, width * 0.8), Paint(person.hair, fold=0.3), bias=above, cap=0.7
        )
    stage.finish()
