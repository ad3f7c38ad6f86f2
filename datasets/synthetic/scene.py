"""The place a camera looks at: a perspective ground, a wall behind it, marks, things that stand about, light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .drawing import Array, noise_tile
from .textures import GROUNDS, WALLS, Rng, rgb


@dataclass(frozen=True)
class Setting:
    """A kind of scene: surfaces with the colours they may have, and where the wall stands."""

    ground: str
    ground_colors: tuple[tuple[int, int, int], ...]
    wall: str
    wall_colors: tuple[tuple[int, int, int], ...]
    base: tuple[float, float]  # the wall's foot, in picture heights from the top
    line: tuple[int, int, int] | None = None  # painted on the ground
    gloss: float = 0.0  # how much the ground mirrors the wall
    posts: tuple[int, int, int] | None = None


SETTINGS: dict[str, Setting] = {
    # by day
    "plaza": Setting("slabs", ((214, 180, 156), (206, 196, 178)), 
        "stone", ((196, 160, 138), (170, 150, 130)), (0.1, 0.3)),
    "lawn": Setting("grass", ((118, 146, 70), (140, 150, 86)), 
        "hedge", ((58, 104, 44), (70, 112, 60)), (0.3, 0.5)),
    "brick": Setting("slabs", ((178, 180, 170), (160, 158, 150)), 
        "brick", ((150, 82, 64), (126, 70, 58)), (0.2, 0.42)),
    "road": Setting("asphalt", ((104, 98, 108), (88, 90, 96)), 
        "hedge", ((46, 92, 40), (60, 90, 50)), (0.28, 0.48), line=(232, 232, 226), posts=(70, 74, 78)),
    "park": Setting("gravel", ((212, 186, 146), (196, 176, 150)), 
        "hedge", ((84, 132, 60), (64, 118, 74)), (0.3, 0.5)),
    "promenade": Setting("planks", ((196, 160, 120), (180, 150, 120)), 
        "water", ((96, 160, 196), (120, 176, 190)), (0.3, 0.45), posts=(220, 220, 214)),
    # in the cold
    "snow": Setting("snow", ((206, 212, 224), (190, 200, 214)), 
        "windows", ((120, 112, 116), (96, 100, 112)), (0.2, 0.4)),
    "platform": Setting("asphalt", ((86, 84, 90), (98, 94, 92)), 
        "panels", ((96, 90, 104), (80, 84, 92)), (0.34, 0.52), line=(210, 176, 48), posts=(60, 64, 60)),
    "street": Setting("asphalt", ((70, 76, 88), (80, 80, 88)), 
        "windows", ((92, 84, 90), (74, 80, 96)), (0.3, 0.5), line=(170, 174, 180), gloss=0.15),
    "hall": Setting("checker", ((172, 150, 120), (160, 148, 132)), 
        "stone", ((150, 128, 104), (130, 120, 110)), (0.05, 0.2)),
    "snowpark": Setting("snow", ((186, 196, 212), (214, 214, 222)), 
        "trunks", ((96, 104, 116), (120, 124, 132)), (0.25, 0.45)),
    "concourse": Setting("slabs", ((112, 104, 112), (100, 106, 104)), 
        "shops", ((84, 80, 90), (76, 90, 84)), (0.25, 0.4), gloss=0.12, posts=(90, 90, 96)),
    # at night
    "neon": Setting("asphalt", ((48, 46, 58), (40, 42, 54)), 
        "shops", ((46, 34, 62), (30, 40, 60)), (0.35, 0.55), gloss=0.45),
    "wetroad": Setting("asphalt", ((44, 50, 60), (52, 50, 54)), 
        "windows", ((34, 36, 46), (44, 38, 38)), (0.3, 0.5), line=(190, 190, 170), gloss=0.4),
    "carpark": Setting("asphalt", ((86, 84, 78), (74, 78, 80)), 
        "cars", ((60, 60, 62), (54, 60, 56)), (0.32, 0.48), line=(214, 206, 180)),
    "underpass": Setting("slabs", ((96, 92, 80), (84, 88, 84)), 
        "tiles", ((140, 140, 120), (120, 136, 128)), (0.3, 0.5), gloss=0.15),
    "shopfront": Setting("slabs", ((72, 68, 66), (64, 66, 74)), 
        "shops", ((70, 56, 44), (50, 52, 62)), (0.4, 0.58), gloss=0.2),
    "alley": Setting("gravel", ((60, 56, 52), (52, 54, 60)), 
        "brick", ((70, 46, 40), (58, 50, 50)), (0.3, 0.5), posts=(36, 36, 40)),
    # inside
    "mall": Setting("checker", ((226, 218, 204), (214, 212, 210)), 
        "shops", ((206, 200, 194), (190, 196, 204)), (0.3, 0.48), gloss=0.35),
    "corridor": Setting("carpet", ((110, 122, 140), (128, 110, 104)), 
        "panels", ((214, 212, 200), (196, 204, 206)), (0.3, 0.5)),
    "shelves": Setting("checker", ((200, 200, 194), (186, 178, 164)), 
        "shelves", ((170, 160, 150), (150, 156, 160)), (0.42, 0.6), gloss=0.15),
    "lobby": Setting("planks", ((168, 122, 80), (140, 104, 76)), 
        "stone", ((220, 212, 198), (200, 190, 178)), (0.2, 0.4), gloss=0.2),
    "gallery": Setting("slabs", ((150, 152, 156), (166, 160, 150)), 
        "posters", ((232, 230, 224), (210, 214, 212)), (0.35, 0.55), gloss=0.18),
    "escalator": Setting("metal", ((136, 140, 146), (120, 126, 136)), 
        "glass", ((150, 176, 184), (160, 168, 176)), (0.2, 0.4), posts=(60, 62, 66)),
}  # fmt: skip

MARGIN = 1.25  # scene height in picture heights, so that boxes may move up and down
WIDTH = 5.0  # scene width in picture widths


@dataclass(frozen=True)
class Scene:
    """A drawn place."""

    picture: Array  # [3, 1.25 H, 5 W]
    lamps: Array  # [1.25 H, 5 W], factor on the light
    foot: float  # row of the feet in the picture, in picture heights


def _marks(picture: Array, setting: Setting, x: Array, z: Array, top: int, rng: Rng) -> None:
    """A painted line across and one along the way."""
    if setting.line is None:
        return
    low, high = np.quantile(z, [0.2, 0.8])
    place, thick = rng.uniform(low, high), rng.uniform(0.07, 0.14)
    dashes = rng.uniform(1.5, 4.0) if rng.random() < 0.5 else 50.0
    line = np.clip((thick - np.abs(z - place)) * 40 + 0.5, 0, 1) * (np.mod(x, dashes) < 0.65 * dashes)
    color = rgb(rng, setting.line)[:, None, None]
    ground = picture[:, top:]
    ground += (color - ground) * (0.85 * line)


def _posts(picture: Array, setting: Setting, foot: int, unit: float, rng: Rng) -> None:
    if setting.posts is None:
        return
    color = rgb(rng, setting.posts)[:, None, None]
    for _ in range(4):
        left = int(rng.uniform(0, picture.shape[2]))
        wide = max(2, int(unit * rng.uniform(0.03, 0.09)))
        round_off = np.sin(np.linspace(0.35, 2.9, wide, dtype=np.float32))
        strip = picture[:, :foot, left : left + wide]
        strip[:] = color * (0.5 + 0.6 * round_off[: strip.shape[2]])


def make_scene(
    rng: Rng, kind: str, height: int, width: int, size: float, pools: float, relief: float
) -> Scene:
    """Draw a place.

    Args:
        rng: source of randomness.
        kind: a key of `SETTINGS`.
        height: picture height in pixels.
        width: picture width in pixels.
        size: height of a person in picture heights.
        pools: unevenness of the light, 0..1.
        relief: contrast of the place, 1 as its surfaces are.
    """
    setting = SETTINGS[kind]
    rows, columns = round(MARGIN * height), round(WIDTH * width)
    picture = np.empty((3, rows, columns), np.float32)
    base = int(rng.uniform(*setting.base) * height) + (rows - height) // 2
    horizon = base - height * rng.uniform(0.15, 0.7)
    foot, unit = 0.94 * height + (rows - height) // 2, size * height
    ys = np.arange(base, rows, dtype=np.float32)[:, None] + 0.5
    xs = np.arange(columns, dtype=np.float32) + 0.5 - columns / 2
    ratio = (foot - horizon) / (ys - horizon)
    x, z = xs / unit * ratio + 0.0 * ys, 2.2 / size * ratio + 0.0 * xs
    angle = rng.uniform(-0.6, 0.6)
    turned_x, turned_z = np.cos(angle) * x - np.sin(angle) * z, np.sin(angle) * x + np.cos(angle) * z
    ground_color = rgb(rng, setting.ground_colors[int(rng.integers(2))], 0.08)
    picture[:, base:] = GROUNDS[setting.ground](rng, ground_color, turned_x, turned_z)
    wall_unit = unit * (base - horizon) / (foot - horizon)  # a body height at the wall
    up = (base - np.arange(base, dtype=np.float32)[:, None] - 0.5) / wall_unit + 0.0 * xs
    wall_color = rgb(rng, setting.wall_colors[int(rng.integers(2))], 0.08)
    wall_x = (xs / wall_unit) + 0.0 * up
    picture[:, :base] = WALLS[setting.wall](rng, wall_color, wall_x, up)
    if setting.gloss:
        deep = min(base, rows - base)
        mirror = (
            picture[:, base - deep : base][:, ::-1] * np.linspace(1, 0.3, deep, dtype=np.float32)[:, None]
        )
        picture[:, base : base + deep] += setting.gloss * (mirror - 0.6 * picture[:, base : base + deep])
    edge = np.clip(np.abs(np.arange(rows, dtype=np.float32) - base) / (0.04 * height), 0, 1)[:, None]
    picture *= 0.72 + 0.28 * edge  # dirt and shade where wall and ground meet
    _marks(picture, setting, x, z, base, rng)
    _posts(picture, setting, int(base + rng.uniform(0.02, 0.3) * (rows - base)), unit, rng)
    lamps = 1.0 + pools * np.clip(
        noise_tile(rng, max(rows, columns), ((6, 4, 1.0),))[:rows, :columns], -1.2, 1.6
    )
    mean = picture.mean()
    picture = mean + relief * (picture - mean)
    return Scene(np.clip(picture, 0.0, 1.0), np.maximum(lamps, 0.15).astype(np.float32), 0.94)
