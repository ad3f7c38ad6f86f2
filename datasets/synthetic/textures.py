"""Surfaces of scenes, as functions of places: (across, away) on the ground, (across, up) on a wall, in body heights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .drawing import Array, noise_tile

Rng = np.random.Generator
Surface = Callable[[Rng, Array, Array, Array], Array]  # rng, colour [3], two places [h, w] -> [3, h, w]

_SIZE = 512
_FINE = noise_tile(np.random.default_rng(11), _SIZE, ((256, 256, 1.0), (128, 128, 0.8), (40, 40, 0.8)))
_COARSE = noise_tile(np.random.default_rng(12), _SIZE, ((12, 12, 1.0), (40, 40, 0.7), (120, 120, 0.4)))


def rgb(rng: Rng, color: tuple[int, int, int], jitter: float = 0.05) -> Array:
    """A colour as [3] float32, moved a little."""
    values = np.array(color) / 255.0
    values = values * (1.0 + jitter * (rng.standard_normal() + 0.5 * rng.standard_normal(3)))
    return np.clip(values, 0.02, 0.98).astype(np.float32)


def _noise(tile: Array, x: Array, y: Array, grain: float, rng: Rng) -> Array:
    """Noise at places, `grain` tile pixels a body height."""
    dx, dy = rng.integers(0, _SIZE, 2)
    return tile[(y * grain + dy).astype(np.intp) % _SIZE, (x * grain + dx).astype(np.intp) % _SIZE]


def _cells(x: Array, y: Array, rng: Rng) -> Array:
    """One random value, 0..1, for each cell of the unit grid."""
    table = rng.random((64, 64)).astype(np.float32)
    return table[np.floor(y).astype(np.intp) % 64, np.floor(x).astype(np.intp) % 64]


def _seams(x: Array, y: Array, thick: float) -> Array:
    """1 on the unit grid's lines."""
    dx, dy = np.abs(x - np.round(x)), np.abs(y - np.round(y))
    return np.clip((thick - np.minimum(dx, dy)) / (0.6 * thick) + 0.5, 0, 1)


def _tint(color: Array, factor: Array) -> Array:
    return color[:, None, None] * np.maximum(factor, 0.05)


def _toward(picture: Array, color: tuple[float, float, float] | Array, share: Array) -> Array:
    return picture + (np.asarray(color, np.float32)[:, None, None] - picture) * share


def _slabs(rng: Rng, color: Array, x: Array, z: Array) -> Array:
    size = rng.uniform(0.25, 0.6)
    gx, gz = x / size, z / (size * rng.choice([1.0, 1.0, 2.0]))
    tone = (
        0.9
        + 0.2 * _cells(gx, gz, rng)
        + 0.07 * _noise(_FINE, x, z, 60, rng)
        + 0.05 * _noise(_COARSE, x, z, 30, rng)
    )
    return _tint(color, tone * (1 - 0.3 * _seams(gx, gz, 0.04)))


def _checker(rng: Rng, color: Array, x: Array, z: Array) -> Array:
    size = rng.uniform(0.3, 0.55)
    dark = (np.floor(x / size) + np.floor(z / size)) % 2
    step = rng.uniform(0.06, 0.22)
    tone = 1.0 - step * dark + 0.05 * _noise(_COARSE, x, z, 60, rng) + 0.03 * _noise(_FINE, x, z, 60, rng)
    return _tint(color, tone * (1 - 0.12 * _seams(x / size, z / size, 0.03)))


def _asphalt(rng: Rng, color: Array, x: Array, z: Array) -> Array:
    return _tint(color, 1.0 + 0.12 * _noise(_FINE, x, z, 90, rng) + 0.1 * _noise(_COARSE, x, z, 25, rng))


def _grass(rng: Rng, color: Array, x: Array, z: Array) -> Array:
    tone = 1.0 + 0.16 * _noise(_FINE, x, z, 110, rng) + 0.14 * _noise(_COARSE, x, z, 40, rng)
    picture = _tint(color, tone)
    return _toward(picture, (0.72, 0.64, 0.42), 0.5 * np.clip(_noise(_COARSE, x, z, 14, rng) - 0.6, 0, 1))


def _gravel(rng: Rng, color: Array, x: Array, z: Array) -> Array:
    return _tint(color, 1.0 + 0.09 * _noise(_FINE, x, z, 100, rng) + 0.08 * _noise(_COARSE, x, z, 20, rng))


def _planks(rng: Rng, color: Array, x: Array, z: Array) -> Array:
    wide = rng.uniform(0.09, 0.16)
    row = np.floor(z / wide)
    tone = 0.88 + 0.22 * _cells(row * 0 + 3, row, rng) + 0.06 * _noise(_FINE, x * 0.15, z, 120, rng)
    seam = np.clip(0.1 - np.abs(z / wide - np.round(z / wide)), 0, 1) * 4
    return _tint(color, tone * (1 - seam))


def _snow(rng: Rng, color: Array, x: Array, z: Array) -> Array:
    trodden = np.clip(_noise(_COARSE, x, z, 30, rng), -0.3, 1.6)
    steps = np.clip(_noise(_FINE, x, z, 28, rng) - 0.9, 0, 1)
    return _tint(color, 1.02 - 0.12 * trodden - 0.22 * steps + 0.03 * _noise(_FINE, x, z, 100, rng))


def _carpet(rng: Rng, color: Array, x: Array, z: Array) -> Array:
    size = rng.uniform(0.5, 0.9)
    tone = 0.95 + 0.1 * ((np.floor(x / size) + np.floor(z / size)) % 2) + 0.07 * _noise(_FINE, x, z, 120, rng)
    return _tint(color, tone)


def _metal(rng: Rng, color: Array, x: Array, z: Array) -> Array:
    grooves = 0.5 + 0.5 * np.sin(x * (2 * np.pi / 0.09))
    return _tint(color, 0.82 + 0.2 * grooves + 0.04 * _noise(_COARSE, x, z, 40, rng))


def _stone(rng: Rng, color: Array, x: Array, up: Array) -> Array:
    gx, gy = x / rng.uniform(0.7, 1.4), up / rng.uniform(0.35, 0.8)
    tone = (
        0.94 + 0.12 * _cells(gx + 0.5 * (np.floor(gy) % 2), gy, rng) + 0.05 * _noise(_COARSE, x, up, 60, rng)
    )
    return _tint(color, tone * (1 - 0.15 * _seams(gx + 0.5 * (np.floor(gy) % 2), gy, 0.02)))


def _brick(rng: Rng, color: Array, x: Array, up: Array) -> Array:
    gy = up / 0.075
    gx = x / 0.2 + 0.5 * (np.floor(gy) % 2)
    tone = 0.8 + 0.36 * _cells(gx, gy, rng) + 0.05 * _noise(_COARSE, x, up, 40, rng)
    return _toward(_tint(color, tone), (0.62, 0.58, 0.54), 0.45 * _seams(gx, gy, 0.09))


def _hedge(rng: Rng, color: Array, x: Array, up: Array) -> Array:
    leaves = _noise(_FINE, x, up, 45, rng) * 0.24 + _noise(_COARSE, x, up, 60, rng) * 0.34
    return _tint(color, 0.85 + leaves)


def _water(rng: Rng, color: Array, x: Array, up: Array) -> Array:
    tone = 1.0 + 0.1 * _noise(_FINE, 0.2 * x, 2 * up, 60, rng) + 0.04 * _noise(_COARSE, 0.3 * x, up, 50, rng)
    picture = _tint(color, tone)
    sky = np.clip((up - rng.uniform(0.9, 1.6)) * 8, 0, 1)
    picture = _toward(picture, (0.8, 0.88, 0.95), sky)
    rail = np.clip(1 - np.abs(up - 0.55) / 0.03, 0, 1) + np.clip(
        1 - np.abs(x - np.round(x / 0.8) * 0.8) / 0.02, 0, 1
    )
    return _toward(picture, (0.9, 0.9, 0.88), np.clip(rail, 0, 1) * (up < 0.58))


def _panes(x: Array, up: Array, wide: float, tall: float, share: float) -> Array:
    """1 inside the panes of a regular facade."""
    dx, dy = np.abs(x / wide - np.floor(x / wide) - 0.5), np.abs(up / tall - np.floor(up / tall) - 0.5)
    return np.clip(0.5 + (0.5 * share - np.maximum(dx, dy)) * 14, 0, 1)


def _windows(rng: Rng, color: Array, x: Array, up: Array) -> Array:
    wide, tall = rng.uniform(0.8, 1.3), rng.uniform(0.9, 1.4)
    lit = _cells(x / wide, up / tall, rng)
    picture = _tint(color, 1.0 + 0.07 * _noise(_COARSE, x, up, 40, rng))
    panes = _panes(x, up, wide, tall, 0.62)
    picture = _toward(picture, (0.16, 0.19, 0.24), 0.9 * panes)
    return _toward(picture, (0.95, 0.78, 0.46), 0.85 * panes * (lit > 0.62))


def _shops(rng: Rng, color: Array, x: Array, up: Array) -> Array:
    wide = rng.uniform(1.2, 2.2)
    picture = _tint(color, 1.0 + 0.05 * _noise(_COARSE, x, up, 40, rng))
    hue = _cells(x / wide, up * 0, rng)[None] * 6.28 + np.array([0.0, 2.1, 4.2])[:, None, None]
    glow = (0.72 + 0.28 * np.cos(hue)).astype(np.float32)
    panes = _panes(x, up + 0.05, wide, 1.25, 0.86) * (up < 1.2)
    goods = 0.75 + 0.22 * np.clip(_noise(_COARSE, x, up, 70, rng), -1.5, 1)
    picture = picture + (glow * goods - picture) * (0.9 * panes)
    sign = np.clip(1 - np.abs(up - 1.42) / 0.12, 0, 1) ** 0.5 * (_noise(_FINE, x, 0 * up, 14, rng) > -0.4)
    vivid = np.clip(0.5 + 0.75 * np.cos(hue + 1.5), 0, 1).astype(np.float32)
    return picture + (vivid - picture) * (0.9 * sign)


def _panels(rng: Rng, color: Array, x: Array, up: Array) -> Array:
    gx, gy = x / rng.uniform(0.6, 1.0), up / rng.uniform(0.8, 1.6)
    picture = _tint(color, 0.96 + 0.06 * _cells(gx, gy, rng) + 0.03 * _noise(_COARSE, x, up, 40, rng))
    picture = picture * (1 - 0.25 * _seams(gx, gy, 0.02))
    doors = np.clip(0.5 + (0.3 - np.abs(x / 2.6 - np.round(x / 2.6))) * -30, 0, 1)
    return _toward(picture, 0.55 * color, (1 - doors) * (up < 1.25) * 0.5 * (rng.random() < 0.7))


def _tiles(rng: Rng, color: Array, x: Array, up: Array) -> Array:
    picture = _tint(color, 0.94 + 0.1 * _cells(x / 0.16, up / 0.16, rng))
    picture = picture * (1 - 0.25 * _seams(x / 0.16, up / 0.16, 0.07))
    band = np.clip(1 - np.abs(up - rng.uniform(0.5, 1.0)) / 0.1, 0, 1) ** 0.3
    return _toward(picture, rgb(rng, (40, 90, 150), 0.4), band)


def _trunks(rng: Rng, color: Array, x: Array, up: Array) -> Array:
    picture = _tint(
        color, 1.0 + 0.12 * _noise(_COARSE, x, up, 30, rng) + 0.06 * _noise(_FINE, x, up, 60, rng)
    )
    for gap in (0.9, 0.57):
        shift = rng.random()
        index = np.floor(x / gap + shift)
        side = np.abs(x / gap + shift - index - 0.3 - 0.4 * _cells(index, 0 * up, rng)) * gap
        trunk = np.clip((0.05 * gap + 0.03 - side) * 40 + 0.5, 0, 1)
        picture = _toward(picture, (0.2, 0.18, 0.18), trunk * 0.85)
    return picture


def _cars(rng: Rng, color: Array, x: Array, up: Array) -> Array:
    picture = _tint(color, 1.0 + 0.06 * _noise(_COARSE, x, up, 40, rng))
    gap = 2.6
    place, index = x / gap - np.floor(x / gap) - 0.5, np.floor(x / gap)
    paint = 0.15 + 0.6 * np.stack([_cells(index, 0 * up + k, rng) for k in range(3)])
    body = (
        np.clip((0.4 - np.abs(place)) * 30, 0, 1)
        * np.clip((0.42 - up) * 20, 0, 1)
        * np.clip((up - 0.07) * 20, 0, 1)
    )
    cabin = np.clip((0.24 - np.abs(place) - 0.25 * (up - 0.42)) * 30, 0, 1) * (up < 0.72) * (up >= 0.4)
    picture = picture + (paint - picture) * body
    picture = _toward(picture, (0.1, 0.12, 0.15), 0.9 * cabin)
    lamps = np.clip(1 - np.hypot((np.abs(place) - 0.36) * gap, up - 0.3) / 0.06, 0, 1)
    return _toward(picture, (1.0, 0.9, 0.7), lamps)


def _shelves(rng: Rng, color: Array, x: Array, up: Array) -> Array:
    goods = np.stack([_cells(x / 0.11, up / 0.3 + 7 * k, rng) for k in range(3)])
    fill = np.clip((0.82 - (up / 0.3 - np.floor(up / 0.3))) * 12, 0, 1)
    picture = _tint(color, 0.8 + 0.0 * x)
    picture = picture + (0.25 + 0.65 * goods - picture) * (0.85 * fill)
    return picture * (1 - 0.3 * _seams(x / 0.11, up * 0 + 0.5, 0.06))


def _posters(rng: Rng, color: Array, x: Array, up: Array) -> Array:
    picture = _tint(color, 1.0 + 0.03 * _noise(_COARSE, x, up, 30, rng))
    wide = rng.uniform(0.9, 1.5)
    paint = np.stack([_cells(x / wide, 0 * up + 5 * k, rng) for k in range(3)]) * (
        0.8 + 0.2 * np.clip(_noise(_COARSE, x, up, 60, rng), -2, 2)
    )
    frame = (
        np.clip(0.5 + (0.32 - np.abs(x / wide - np.floor(x / wide) - 0.5)) * 30, 0, 1)
        * (up > 0.45)
        * (up < 1.25)
    )
    return picture + (paint - picture) * (0.9 * frame)


def _glass(rng: Rng, color: Array, x: Array, up: Array) -> Array:
    sheen = 0.12 * np.sin(3.0 * x + 2.0 * up + rng.uniform(0, 6)) + 0.08 * _noise(_COARSE, x, up, 20, rng)
    picture = _tint(color, 0.95 + sheen)
    return picture * (1 - 0.45 * _seams(x / 0.9, up / 1.3, 0.025))


GROUNDS: Mapping[str, Surface] = {
    "slabs": _slabs, "checker": _checker, "asphalt": _asphalt, "grass": _grass, "gravel": _gravel, "planks": _planks,
    "snow": _snow, "carpet": _carpet, "metal": _metal,
}  # fmt: skip
WALLS: Mapping[str, Surface] = {
    "stone": _stone, "brick": _brick, "hedge": _hedge, "water": _water, "windows": _windows, "shops": _shops,
    "panels": _panels, "tiles": _tiles, "trunks": _trunks, "cars": _cars, "shelves": _shelves, "posters": _posters,
    "glass": _glass,
}  # fmt: skip
