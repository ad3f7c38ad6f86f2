"""A camera: its place, its light, its sensor, and the people who pass it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .body import draw_person
from .domains import DomainStyle, Range
from .drawing import Array, Light, Paint, new_layer
from .person import generator, make_person
from .scene import Scene, make_scene
from .stage import View
from .track import make_track

CROWD = 14  # ready-drawn passers-by of a camera
_VIEWS = (  # yaws that cameras prefer: to and fro, across, and so on
    (0.0, math.pi),
    (math.pi / 2, -math.pi / 2),
    (0.0, 0.8),
    (math.pi, 2.4),
    (math.pi / 2, 0.5),
    (-2.2, -0.9),
)
_OBSTACLES = ("pole", "block", "round")


@dataclass(frozen=True)
class Sensor:
    """How the camera turns light into a file."""

    exposure: float
    contrast: float
    cast: tuple[float, float, float]  # factors on red, green, blue
    saturation: float
    blur: float  # pixels
    noise: float  # of 255
    resolution: float  # sensor rows per picture row
    quality: int  # JPEG


@dataclass(frozen=True)
class Camera:
    """One camera of a domain, with all that its pictures share."""

    height: int
    width: int
    scene: Scene
    sensor: Sensor
    light: Light
    ambient: float
    sun: float
    shadow: float  # darkness of thrown shadows
    pitch: float  # radians downwards
    size: float  # of people, in picture heights
    views: tuple[float, ...]
    obstacle: tuple[str, Paint]
    crowd: tuple[Array, ...]  # layers


def _dealt(rng: np.random.Generator, span: Range, index: int, total: int) -> float:
    """A value of the span that differs from camera to camera: shuffled steps, a little jitter."""
    step = int(rng.permutation(total)[index])
    low, high = span
    return low + (high - low) * (step + 0.5 + 0.4 * (2 * rng.random() - 1)) / total


def _sensor(deal: np.random.Generator, style: DomainStyle, index: int, total: int, height: int) -> Sensor:
    hue = 2 * math.pi * _dealt(deal, (0.0, 1.0), index, total)
    strength = _dealt(deal, style.cast, index, total)
    cast = [math.exp(strength * math.cos(hue - 2.094 * k) + style.warmth * (1 - k)) for k in range(3)]
    return Sensor(
        exposure=_dealt(deal, style.exposure, index, total),
        contrast=_dealt(deal, style.contrast, index, total),
        cast=(cast[0], cast[1], cast[2]),
        saturation=_dealt(deal, style.saturation, index, total),
        blur=_dealt(deal, style.blur, index, total) * height / 128,
        noise=_dealt(deal, style.noise, index, total),
        resolution=_dealt(deal, style.resolution, index, total),
        quality=round(_dealt(deal, style.quality, index, total)),
    )


def _light(deal: np.random.Generator, style: DomainStyle, index: int, total: int) -> Light:
    elevation, azimuth = _dealt(deal, style.elevation, index, total), _dealt(deal, (-1.2, 1.2), index, total)
    flat = math.cos(elevation)
    x, y, z = flat * math.sin(azimuth), math.sin(elevation), flat * math.cos(azimuth) + 0.25
    norm = math.sqrt(x * x + y * y + z * z)
    return Light(x / norm, y / norm, z / norm)


def make_camera(
    seed: int, domain: str, style: DomainStyle, index: int, total: int, height: int, width: int
) -> Camera:
    """Set up one camera; the settings are dealt out among a domain's cameras so that these differ.

    Args:
        seed: of the domain.
        domain: its name, part of the seed.
        style: its ranges.
        index: of the camera, from 0.
        total: number of cameras.
        height: of the pictures in pixels.
        width: of the pictures in pixels.
    """
    deal = generator(seed, domain, "cameras")  # the same stream for every camera, so that permutations agree
    sensor, light = _sensor(deal, style, index, total, height), _light(deal, style, index, total)
    sun = _dealt(deal, style.sun, index, total)
    pitch, size = _dealt(deal, (0.04, 0.4), index, total), _dealt(deal, (0.78, 0.93), index, total)
    views = _VIEWS[int(deal.permutation(total)[index]) % len(_VIEWS)]
    place = style.scenes[(index + int(deal.integers(len(style.scenes)))) % len(style.scenes)]
    rng = generator(seed, domain, "camera", index)
    grey = np.clip(rng.uniform(0.12, 0.5) + 0.025 * rng.standard_normal(3), 0.05, 0.9).tolist()
    obstacle = (_OBSTACLES[int(rng.integers(3))], Paint((grey[0], grey[1], grey[2]), fold=0.12))
    scene = make_scene(rng, place, height, width, size, style.pools, style.relief)
    crowd = []
    for _ in range(CROWD):
        track, layer = make_track(rng, views, size), new_layer(height, width)
        scale, foot = track.size * height * rng.uniform(0.85, 1.0), 0.93 + 0.03 * rng.standard_normal()
        view = View(scale, width / 2, foot * height, pitch, light)
        draw_person(layer, make_person(rng, style), track.pose, view)
        crowd.append(layer)
    return Camera(
        height=height,
        width=width,
        scene=scene,
        sensor=sensor,
        light=light,
        ambient=1.0 - 0.75 * sun,
        sun=1.5 * sun,
        shadow=style.cast_shadow,
        pitch=pitch,
        size=size,
        views=views,
        obstacle=obstacle,
        crowd=tuple(crowd),
    )
