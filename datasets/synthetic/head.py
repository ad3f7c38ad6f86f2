"""The head: skin, hair, face, beard, glasses and hats, coloured by the direction of the surface."""

from __future__ import annotations

import math

import numpy as np

from .drawing import Array, Color, Light, Paint, Point, ball, panel, strip
from .person import Person


def _soft(value: Array, width: float = 0.16) -> Array:
    return np.clip(value / width + 0.5, 0.0, 1.0)


def _onto(color: Array, other: Color, share: Array) -> Array:
    return color + (np.array(other, np.float32)[:, None, None] - color) * share


def _spot(side: Array, up: Array, x: float, y: float, rx: float, ry: float) -> Array:
    return np.clip(1.35 - ((side - x) / rx) ** 2 - ((up - y) / ry) ** 2, 0.0, 1.0)


def draw_head(layer: Array, person: Person, center: Point, scale: float, yaw: float, light: Light) -> None:
    """Draw the head.

    Args:
        layer: [5, H, W], changed in place.
        person: whose.
        center: (x, y) pixels.
        scale: pixels a body height.
        yaw: body yaw in radians, 0 looks at the camera.
        light: direction of the main light.
    """
    cos, sin = math.cos(yaw), math.sin(yaw)
    skin, hair = person.skin.color, person.hair
    lips = (skin[0] * 0.78, skin[1] * 0.55, skin[2] * 0.52)
    line = {"bald": 3.0, "short": 0.52, "bob": 0.36, "long": 0.4, "tail": 0.5, "bun": 0.5}[person.hair_style]
    low = {"short": -0.25, "bun": -0.35, "tail": -0.3}.get(person.hair_style, -0.8)

    def face(nx: Array, ny: Array, nz: Array) -> Array:
        forward, side = nz * cos + nx * sin, nx * cos - nz * sin
        color = np.broadcast_to(np.array(skin, np.float32)[:, None, None], (3, *nz.shape))
        looks = _soft(forward - 0.15)
        eyes = _spot(np.abs(side), ny, 0.36, 0.08, 0.17, 0.12) * looks
        color = _onto(color, (0.12, 0.09, 0.08), 0.85 * eyes)
        color = _onto(color, lips, 0.8 * _spot(side, ny, 0.0, -0.5, 0.3, 0.1) * looks)
        if person.beard:
            chin = _soft(-0.28 - ny) * _soft(forward - 0.1) * (1.0 - _spot(side, ny, 0.0, -0.5, 0.25, 0.1))
            color = _onto(color, hair, 0.9 * chin)
        if person.glasses:
            frame = _spot(np.abs(side), ny, 0.38, 0.08, 0.34, 0.22) * _soft(forward + 0.1)
            color = _onto(color, (0.08, 0.08, 0.1), 0.75 * frame)
        if person.hair_style != "bald":
            behind = _soft(np.maximum(ny - line, -forward - 0.12 + 0.3 * ny)) * _soft(ny - low)
            color = _onto(color, hair, behind)
        return _hat_on(color, ny, forward)

    def _hat_on(color: Array, up: Array, forward: Array) -> Array:
        if person.hat in ("cap", "sunhat"):
            return _onto(color, person.hat_color, _soft(up - 0.34))
        if person.hat == "beanie":
            color = _onto(color, person.hat_color, _soft(up - 0.2 + 0.12 * forward))
            dark = (person.hat_color[0] * 0.7, person.hat_color[1] * 0.7, person.hat_color[2] * 0.7)
            return _onto(color, dark, _soft(up - 0.16) * _soft(0.42 - up))
        if person.hat == "hood":
            return _onto(color, person.hat_color, 1.0 - _soft(forward - 0.42) * _soft(0.62 - up))
        return color

    width, height = 0.054 * scale, 0.071 * scale
    if person.hat == "hood":
        width, height = 1.22 * width, 1.16 * height
    elif person.hat == "beanie" or person.hair_style in ("long", "bob"):
        width, height = 1.1 * width, 1.05 * height
    bun = person.hair_style == "bun" and person.hat != "hood"
    knot = (center[0] - 0.05 * scale * sin, center[1] - 0.055 * scale)
    if bun and cos > 0:
        ball(layer, knot, (0.027 * scale, 0.027 * scale), hair, light)
    if person.hat != "hood":  # a nose, so that profiles show where they look
        tip = (center[0] + 0.052 * scale * sin, center[1] + 0.012 * scale)
        ball(layer, tip, (0.014 * scale, 0.013 * scale), skin, light)
    ball(layer, center, (width, height), face, light)
    if bun and cos <= 0:
        ball(layer, knot, (0.027 * scale, 0.027 * scale), hair, light)
    if person.hat == "cap":
        brow = center[1] - 0.026 * scale
        start = (center[0] + 0.03 * scale * sin, brow)
        end = (center[0] + 0.088 * scale * sin, brow + 0.012 * scale * max(cos, 0.0) + 0.004 * scale)
        if cos > -0.5:
            thick = (0.012 + 0.02 * max(cos, 0.0)) * scale
            strip(
                layer, start, end, (thick, 0.6 * thick), Paint(person.hat_color, fold=0.0), light, shade=0.8
            )
    elif person.hat == "sunhat":
        brim = (center[0], center[1] - 0.024 * scale)
        panel(
            layer, brim, (0.095 * scale, 0.014 * scale), Paint(person.hat_color), light, corner=0.014 * scale
        )
