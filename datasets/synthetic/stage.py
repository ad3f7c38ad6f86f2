"""The stage of one drawing: projects joints of the body to pixels and draws what was put on it, back to front."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .drawing import Array, Color, Light, Paint, Point, panel, strip
from .person import Person
from .track import Pose

Joint = tuple[float, float, float]  # to the person's left, up, forward; in body heights


@dataclass(frozen=True)
class View:
    """How a camera sees the walker: pixels a body height, place of the feet, tilt downwards, light."""

    scale: float
    x: float
    y: float
    pitch: float
    light: Light


class Stage:
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
        """Half-width, as seen, of an upright ellipse of these half-axes; in body heights."""
        return math.hypot(lateral * self.cos, deep * self.sin)

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

    def box(self, center: Joint, half: Point, color: Color, *, bias: float, corner: float = 0.012) -> None:
        """An upright box with its middle at a joint; sizes in body heights."""
        point, scale, depth = self.point(center), self.view.scale, self.depth(center)
        paint = Paint(color, fold=0.1, offset=self.person.upper_paint.offset)
        shade = min(max(1.0 + 0.8 * depth, 0.75), 1.1)

        def draw() -> None:
            size = (half[0] * scale, half[1] * scale)
            panel(self.layer, point, size, paint, self.view.light, corner=corner * scale, shade=shade)

        self.add(depth + bias, draw)


def toward(start: Joint, length: float, angle: float, out: float = 0.0) -> Joint:
    """The joint `length` away, hanging down and swung forward by `angle`."""
    return start[0] + out * length, start[1] - length * math.cos(angle), start[2] + length * math.sin(angle)


def between(a: Joint, b: Joint, t: float) -> Joint:
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t
