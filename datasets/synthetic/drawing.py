"""Soft-edged, shaded shapes drawn from distance fields into a small float layer, each inside its own bounding box.

A layer is a float32 array [5, H, W]: red, green, blue (0..1), light and coverage, all premultiplied by coverage.
Colour and light are kept apart, so that a camera can light a finished layer in one step (see `camera.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

Array = np.ndarray
Color = tuple[float, float, float]
Point = tuple[float, float]
# (body azimuth in radians, distance from the top in body heights, pixels a body height) -> share of the second colour
Pattern = Callable[[Array, Array, float], Array]

_GRID = np.arange(2048, dtype=np.float32) + 0.5  # pixel centres
_KNOTS = 48


@dataclass(frozen=True)
class Light:
    """Unit vector towards the main light in the camera's frame: x to the right, y up, z towards the camera."""

    x: float
    y: float
    z: float


@dataclass(frozen=True)
class Paint:
    """What a surface looks like: colours, pattern, strength and place of its folds."""

    color: Color
    second: Color = (0.0, 0.0, 0.0)
    pattern: Pattern | None = None
    fold: float = 0.16
    offset: tuple[int, int] = (0, 0)


def new_layer(height: int, width: int) -> Array:
    return np.zeros((5, height, width), np.float32)


def noise_tile(rng: np.random.Generator, size: int, octaves: Sequence[tuple[int, int, float]]) -> Array:
    """Sum smooth random fields.

    Args:
        rng: source of randomness.
        size: side in pixels.
        octaves: (cells across, cells down, weight) of each field.

    Returns:
        [size, size] float32 with zero mean and unit deviation; it repeats without seams.
    """
    total = np.zeros((size, size), np.float32)
    for across, down, weight in octaves:
        cells = Image.fromarray(np.pad(rng.standard_normal((down, across)).astype(np.float32), 3, "wrap"))
        region = (3, 3, across + 3, down + 3)
        total += weight * np.asarray(cells.resize((size, size), Image.Resampling.BICUBIC, region))
    total -= total.mean()
    return total / total.std()


# One tile of cloth folds for all: longer than wide; where it is read is what differs from garment to garment.
_FOLDS = noise_tile(np.random.default_rng(7), 768, ((110, 60, 1.0), (220, 90, 0.7), (56, 40, 0.8)))


def _window(layer: Array, x0: float, y0: float, x1: float, y1: float) -> tuple[int, int, int, int] | None:
    left, top = max(int(x0), 0), max(int(y0), 0)
    right, bottom = min(math.ceil(x1), layer.shape[2]), min(math.ceil(y1), layer.shape[1])
    return (left, top, right, bottom) if left < right and top < bottom else None


def _cover(layer: Array, box: tuple[int, int, int, int], alpha: Array, color: Array, light: Array) -> None:
    left, top, right, bottom = box
    under = layer[:, top:bottom, left:right]
    over = np.empty(under.shape, np.float32)
    over[:3] = color
    over[3] = light
    over[4] = 1.0
    over -= under
    over *= alpha
    under += over


def _folded(light: Array, paint: Paint) -> Array:
    if paint.fold:
        y, x = paint.offset
        light *= 1.0 + paint.fold * _FOLDS[y : y + light.shape[0], x : x + light.shape[1]]
    return light


def _mixed(paint: Paint, share: Array) -> Array:
    first = np.array(paint.color, np.float32)[:, None, None]
    second = np.array(paint.second, np.float32)[:, None, None]
    return first + (second - first) * share


def _flat(color: Color) -> Array:
    return np.array(color, np.float32)[:, None, None]


def strip(
    layer: Array,
    start: Point,
    end: Point,
    widths: Sequence[float],
    paint: Paint,
    light: Light,
    *,
    cap: float = 1.0,
    shade: float = 1.0,
    yaw: float = 0.0,
    scale: float = 1.0,
) -> None:
    """Draw a round, profiled strip (limb, torso, skirt) from `start` to `end`.

    Args:
        layer: [5, H, W], changed in place.
        start: (x, y) pixels.
        end: (x, y) pixels.
        widths: half-widths in pixels, evenly spaced from start to end.
        paint: its surface.
        light: direction of the main light.
        cap: how far the ends bulge, in half-widths; 1 is a capsule, near 0 a straight cut.
        shade: factor on the light.
        yaw: body yaw in radians, for patterns.
        scale: pixels a body height, for patterns.
    """
    length = max(math.hypot(end[0] - start[0], end[1] - start[1]), 1e-3)
    dx, dy = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    reach = max(widths) + 1.0
    box = _window(
        layer,
        min(start[0], end[0]) - reach,
        min(start[1], end[1]) - reach,
        max(start[0], end[0]) + reach,
        max(start[1], end[1]) + reach,
    )
    if box is None:
        return
    xs = _GRID[box[0] : box[2]] - np.float32(start[0])
    ys = (_GRID[box[1] : box[3]] - np.float32(start[1]))[:, None]
    along = dx * xs + dy * ys
    across = dy * xs - dx * ys
    t = np.clip(along, 0.0, length)
    over = (along - t) * (1.0 / max(cap, 0.02))
    if len(widths) == 2:
        radius = widths[0] + (widths[1] - widths[0]) / length * t
    else:
        profile = np.interp(np.linspace(0, 1, _KNOTS), np.linspace(0, 1, len(widths)), widths)
        radius = profile.astype(np.float32)[(t * ((_KNOTS - 1) / length)).astype(np.intp)]
    alpha = np.clip(radius - np.sqrt(across * across + over * over) + 0.5, 0.0, 1.0)
    u = np.clip(across / np.maximum(radius, 0.5), -1.0, 1.0)
    facing = np.sqrt(1.0 - u * u)
    lit = u * (dy * light.x + dx * light.y) + facing * light.z
    lit = (0.38 + 0.62 * lit) * (0.7 + 0.3 * facing) * shade
    if paint.pattern is None:
        color = _flat(paint.color)
    else:
        color = _mixed(paint, paint.pattern(np.arcsin(u) - yaw, t * (1.0 / scale), scale))
    _cover(layer, box, alpha, color, np.maximum(_folded(lit, paint), 0.0))


def panel(
    layer: Array,
    center: Point,
    half: Point,
    paint: Paint,
    light: Light,
    *,
    corner: float = 2.0,
    tilt: float = 0.0,
    shade: float = 1.0,
) -> None:
    """Draw a rounded box seen from outside (bags, prints, phone, visor).

    Args:
        layer: [5, H, W], changed in place.
        center: (x, y) pixels.
        half: half width and half height in pixels.
        paint: its surface.
        light: direction of the main light.
        corner: corner radius in pixels.
        tilt: rotation in radians.
        shade: factor on the light.
    """
    reach = math.hypot(*half) if tilt else 0.0
    rx, ry = max(reach, half[0]) + 1.0, max(reach, half[1]) + 1.0
    box = _window(layer, center[0] - rx, center[1] - ry, center[0] + rx, center[1] + ry)
    if box is None:
        return
    corner = min(corner, *half)
    xs = _GRID[box[0] : box[2]] - np.float32(center[0])
    ys = (_GRID[box[1] : box[3]] - np.float32(center[1]))[:, None]
    c, s = math.cos(tilt), math.sin(tilt)
    px, py = c * xs + s * ys, c * ys - s * xs
    qx, qy = np.abs(px) - (half[0] - corner), np.abs(py) - (half[1] - corner)
    outside = np.hypot(np.maximum(qx, 0.0), np.maximum(qy, 0.0)) + np.minimum(np.maximum(qx, qy), 0.0)
    alpha = np.clip(corner - outside + 0.5, 0.0, 1.0)
    u = px * (0.8 / half[0])
    lit = 0.38 + 0.62 * (u * light.x - 0.35 * light.y * (py / half[1]) + 0.75 * light.z)
    lit *= np.clip(1.0 - 0.12 * (outside + 2.0), 0.7, 1.0) * shade  # darker rim
    _cover(layer, box, alpha, _flat(paint.color), np.maximum(_folded(lit, paint), 0.0))


# (x, y up, z towards the camera) of the surface normal -> colour [3, h, w]
Shader = Callable[[Array, Array, Array], Array]


def ball(
    layer: Array, center: Point, half: Point, color: Color | Shader, light: Light, *, shade: float = 1.0
) -> None:
    """Draw an ellipsoid, of one colour or coloured by its surface normal.

    Args:
        layer: [5, H, W], changed in place.
        center: (x, y) pixels.
        half: half width and half height in pixels.
        color: colour, or a function of the normal.
        light: direction of the main light.
        shade: factor on the light.
    """
    box = _window(
        layer,
        center[0] - half[0] - 1,
        center[1] - half[1] - 1,
        center[0] + half[0] + 1,
        center[1] + half[1] + 1,
    )
    if box is None:
        return
    nx = (_GRID[box[0] : box[2]] - np.float32(center[0])) * np.float32(1.0 / half[0])
    ny = (np.float32(center[1]) - _GRID[box[1] : box[3]])[:, None] * np.float32(1.0 / half[1])
    r = np.sqrt(nx * nx + ny * ny)
    alpha = np.clip((1.0 - r) * min(half) + 0.5, 0.0, 1.0)
    shrink = 1.0 / np.maximum(r, 1.0)
    nx, ny = nx * shrink, ny * shrink
    nz = np.sqrt(np.maximum(1.0 - nx * nx - ny * ny, 0.0))
    lit = (0.38 + 0.62 * (nx * light.x + ny * light.y + nz * light.z)) * (0.7 + 0.3 * nz) * shade
    _cover(layer, box, alpha, color(nx, ny, nz) if callable(color) else _flat(color), np.maximum(lit, 0.0))
