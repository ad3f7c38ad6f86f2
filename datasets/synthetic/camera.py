"""A camera: its place, its light, its sensor; and the taking of one picture."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from .body import View, draw_person
from .domains import DomainStyle, Range
from .drawing import Array, Light, Paint, ball, new_layer, panel
from .person import Person, Pose, Track, generator, make_person, make_track
from .scene import MARGIN, Scene, make_scene

CROWD = 14  # ready-drawn passers-by of a camera
_NOISE = np.random.default_rng(13).standard_normal((640, 640, 3)).astype(np.float32)
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Box:
    """Where a detector's box lies: the person's size and place in the picture."""

    size: float  # body height in picture heights
    x: float  # in picture widths
    y: float  # of the feet, in picture heights


@dataclass(frozen=True)
class Sensor:
    """How the camera turns light into a file."""

    exposure: float
    contrast: float
    cast: tuple[float, float, float]
    saturation: float
    blur: float
    noise: float
    resolution: float
    quality: int


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
    shadow: float
    pitch: float
    size: float
    views: tuple[float, ...]
    obstacle: tuple[str, Paint]
    crowd: tuple[Array, ...]


def _spread(rng: np.random.Generator, span: Range, index: int, total: int) -> float:
    """A value of the span that differs from camera to camera: shuffled steps, a little jitter."""
    step = int(rng.permutation(total)[index])
    low, high = span
    return low + (high - low) * (step + 0.5 + 0.4 * (2 * rng.random() - 1)) / total


def make_camera(
    seed: int, domain: str, style: DomainStyle, index: int, total: int, height: int, width: int
) -> Camera:
    """Set up camera `index` of `total`; the settings of a domain's cameras are dealt out so that they differ."""
    deal = generator(seed, domain, "cameras")  # the same stream for all cameras: permutations agree
    spread = {
        name: _spread(deal, getattr(style, name), index, total)
        for name in (
            "exposure",
            "contrast",
            "cast",
            "saturation",
            "sun",
            "elevation",
            "blur",
            "noise",
            "resolution",
        )
    }
    hue = 2 * math.pi * _spread(deal, (0.0, 1.0), index, total)
    azimuth = _spread(deal, (-1.2, 1.2), index, total)
    pitch, size = _spread(deal, (0.04, 0.4), index, total), _spread(deal, (0.76, 0.93), index, total)
    front = int(deal.permutation(total)[index])
    quality = round(_spread(deal, style.quality, index, total))
    shifted = (style.scenes * total)[(index + int(deal.integers(len(style.scenes)))) % len(style.scenes)]
    rng = generator(seed, domain, "camera", index)
    cast = [math.exp(spread["cast"] * math.cos(hue - 2.094 * k) + style.warmth * (1 - k)) for k in range(3)]
    flat = math.cos(spread["elevation"])
    light = Light(
        flat * math.sin(azimuth), math.sin(spread["elevation"]), flat * abs(math.cos(azimuth)) + 0.25
    )
    norm = math.sqrt(light.x**2 + light.y**2 + light.z**2)
    light = Light(light.x / norm, light.y / norm, light.z / norm)
    views = (
        (0.0, math.pi),
        (math.pi / 2, -math.pi / 2),
        (0.0, 0.8),
        (math.pi, 2.4),
        (math.pi / 2, 0.5),
        (-2.2, -0.9),
    )
    kinds = ("pole", "block", "round")
    grey = np.clip(rng.uniform(0.12, 0.6) + 0.1 * rng.standard_normal(3), 0.05, 0.9).tolist()
    obstacle = (kinds[int(rng.integers(3))], Paint((grey[0], grey[1], grey[2]), fold=0.12))
    sensor = Sensor(
        spread["exposure"], spread["contrast"], (cast[0], cast[1], cast[2]), spread["saturation"], spread["blur"] * height / 128,
        spread["noise"], spread["resolution"], quality,
    )  # fmt: skip
    scene = make_scene(rng, shifted, height, width, size, style.pools)
    crowd = []
    for _ in range(CROWD):
        track = make_track(rng, views[front % len(views)], size)
        layer, scale = new_layer(height, width), track.size * height * rng.uniform(0.85, 1.0)
        view = View(scale, width / 2, (0.93 + 0.03 * rng.standard_normal()) * height, pitch, light)
        draw_person(layer, make_person(rng, style), track.pose, view)
        crowd.append(layer)
    sun = spread["sun"]
    return Camera(
        height, width, scene, sensor, light, 1.0 - 0.75 * sun, 1.5 * sun, style.cast_shadow, pitch, size,
        views[front % len(views)], obstacle, tuple(crowd),
    )  # fmt: skip


def _over(picture: Array, layer: Array, camera: Camera) -> None:
    """Light a layer and lay it over the picture."""
    cover = layer[4]
    lit = layer[3] / np.maximum(cover, 1e-3)
    lit *= camera.sun
    lit += camera.ambient
    picture *= 1.0 - cover
    picture += layer[:3] * lit


def _shadow(picture: Array, layer: Array, camera: Camera, box: Box) -> None:
    """A soft dark patch under the feet, and the thrown shadow where the sun shines."""
    height, width = camera.height, camera.width
    x, y = box.x * width, box.y * height
    dark = np.zeros((height, width), np.float32)
    if camera.shadow > 0:
        # A point `up` above the feet falls on the ground at (run * up, -rise * up): invert that for Image.transform.
        steep = max(math.tan(math.asin(camera.light.y)), 0.5)
        run, rise = -camera.light.x / steep, 0.25 + 0.3 * math.sin(camera.pitch)
        coverage = Image.fromarray((layer[4] * 255).astype(np.uint8))
        matrix = (1.0, run / rise, -run / rise * y, 0.0, 1.0 / rise, y - y / rise)
        thrown = coverage.transform(
            (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
        dark = np.asarray(thrown.filter(ImageFilter.BoxBlur(height / 90)), np.float32) * (camera.shadow / 255)
    rx, ry = 0.17 * box.size * height, (0.03 + 0.05 * math.sin(camera.pitch)) * box.size * height
    left, right = max(int(x - 2 * rx), 0), min(int(x + 2 * rx), width)
    top, bottom = max(int(y - 2 * ry), 0), min(int(y + 2 * ry) + 1, height)
    if left < right and top < bottom:
        u = (np.arange(left, right, dtype=np.float32) + 0.5 - x) / rx
        v = ((np.arange(top, bottom, dtype=np.float32) + 0.5 - y) / ry)[:, None]
        patch = dark[top:bottom, left:right]
        np.maximum(patch, 0.55 * np.clip(1.3 - (u * u + v * v), 0.0, 1.0), out=patch)
    picture *= 1.0 - dark


def _obstacle(layer: Array, camera: Camera, rng: np.random.Generator) -> None:
    """Something of the scene that stands before the person."""
    kind, paint = camera.obstacle
    height, width = camera.height, camera.width
    if kind == "pole":
        half = width * rng.uniform(0.04, 0.09)
        panel(
            layer,
            (width * rng.uniform(0.05, 0.95), height / 2),
            (half, height),
            paint,
            camera.light,
            corner=0.5,
        )
    elif kind == "block":
        top = height * rng.uniform(0.68, 0.86)
        panel(layer, (width / 2, top + height), (width, height), paint, camera.light, corner=2.0, shade=1.4)
    else:
        side = -0.08 if rng.random() < 0.5 else 1.08
        half = (width * rng.uniform(0.18, 0.34), height * rng.uniform(0.14, 0.24))
        ball(layer, (width * side, height * rng.uniform(0.6, 0.95)), half, paint.color, camera.light)


def _develop(picture: Array, camera: Camera, rng: np.random.Generator) -> bytes:
    """From scene light [3, H, W] to a JPEG file."""
    sensor = camera.sensor
    grey = _LUMA[0] * picture[0] + _LUMA[1] * picture[1] + _LUMA[2] * picture[2]
    picture -= grey
    picture *= sensor.saturation
    picture += grey
    flicker = 1.0 + 0.04 * rng.standard_normal()
    gain = np.array(sensor.cast, np.float32)[:, None, None] * (sensor.exposure * sensor.contrast * flicker)
    picture *= gain * 255.0
    picture += 127.5 * (1.0 - sensor.contrast) * min(sensor.exposure, 1.0)
    np.clip(picture, 0.0, 255.0, out=picture)
    image = Image.fromarray(np.ascontiguousarray(picture.astype(np.uint8).transpose(1, 2, 0)))
    image = image.filter(ImageFilter.GaussianBlur(sensor.blur * rng.uniform(0.7, 1.3)))
    rows, columns = round(camera.height * sensor.resolution), round(camera.width * sensor.resolution)
    values = np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR), np.float32)
    y, x = rng.integers(0, max(640 - rows, 1)), rng.integers(0, max(640 - columns, 1))
    values = values + sensor.noise * _NOISE[y : y + rows, x : x + columns]
    image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    image = image.resize((camera.width, camera.height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=sensor.quality)
    return file.getvalue()


def _shifted(layer: Array, dx: int) -> Callable[[Array], tuple[Array, Array]]:
    """Views of a picture and of the layer moved sideways by dx."""
    width = layer.shape[2]
    here = slice(max(dx, 0), min(width + dx, width))
    there = slice(max(-dx, 0), min(width - dx, width))
    return lambda picture: (picture[:, :, here], layer[:, :, there])


def shoot(
    camera: Camera, rng: np.random.Generator, subject: tuple[Person, Pose] | None, box: Box, place: float
) -> bytes:
    """Take one picture.

    Args:
        camera: by which.
        rng: source of all that differs from picture to picture.
        subject: the person and their pose; None for an empty box.
        box: where the detector's box lies.
        place: 0..1, where in the scene.

    Returns:
        The bytes of a JPEG file.
    """
    height, width = camera.height, camera.width
    scene = camera.scene.picture
    top = (
        (MARGIN - 1) / 2 * height
        + (camera.scene.foot - box.y) * height
        + 0.01 * height * rng.standard_normal()
    )
    top = int(np.clip(top, 0, scene.shape[1] - height))
    left = int(
        np.clip(place * (scene.shape[2] - width) + 2 * rng.standard_normal(), 0, scene.shape[2] - width)
    )
    picture = scene[:, top : top + height, left : left + width] * (camera.ambient + 0.5 * camera.sun)
    if rng.random() < 0.2:  # someone further away
        side = int((0.25 + 0.25 * rng.random()) * width) * (1 if rng.random() < 0.5 else -1)
        other = camera.crowd[int(rng.integers(CROWD))]
        _over(*_shifted(other, side)(picture), camera)
    layer = new_layer(height, width)
    if subject is not None:
        view = View(box.size * height, box.x * width, box.y * height, camera.pitch, camera.light)
        draw_person(layer, *subject, view)
        _shadow(picture, layer, camera, box)
    if rng.random() < 0.13:
        _obstacle(layer, camera, rng)
    _over(picture, layer, camera)
    if rng.random() < 0.07:  # someone nearer
        side = int((0.45 + 0.2 * rng.random()) * width) * (1 if rng.random() < 0.5 else -1)
        _over(*_shifted(camera.crowd[int(rng.integers(CROWD))], side)(picture), camera)
    picture *= camera.scene.lamps[top : top + height, left : left + width]
    return _develop(picture, camera, rng)


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
