"""The taking of one picture: background, people, shadows, obstacles, then lens, sensor and JPEG."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageFilter

from .body import draw_person
from .camera import CROWD, Camera
from .drawing import Array, ball, new_layer, panel
from .person import Person
from .scene import MARGIN
from .stage import View
from .track import Box, Pose

_TILE = 640
_NOISE = np.random.default_rng(13).standard_normal((_TILE, _TILE, 3)).astype(np.float32)
_LUMA = (0.299, 0.587, 0.114)
FAR, BLOCKED, NEAR = 0.2, 0.12, 0.07  # shares of pictures with somebody behind, an obstacle, somebody before


def _over(picture: Array, layer: Array, camera: Camera, dx: int = 0) -> None:
    """Light a layer and lay it over the picture, `dx` pixels to the right."""
    width = layer.shape[2]
    picture = picture[:, :, max(dx, 0) : width + min(dx, 0)]
    layer = layer[:, :, max(-dx, 0) : width - max(dx, 0)]
    lit = layer[3] / np.maximum(layer[4], 1e-3)
    lit *= camera.sun
    lit += camera.ambient
    picture *= 1.0 - layer[4]
    picture += layer[:3] * lit


def _passer_by(picture: Array, camera: Camera, rng: np.random.Generator, span: tuple[float, float]) -> None:
    side = int(rng.uniform(*span) * camera.width) * (1 if rng.random() < 0.5 else -1)
    _over(picture, camera.crowd[int(rng.integers(CROWD))], camera, side)


def _shadow(picture: Array, layer: Array, camera: Camera, box: Box) -> None:
    """A soft dark patch under the feet, and the thrown shadow where the sun shines."""
    height, width = camera.height, camera.width
    x, y = box.x * width, box.y * height
    dark = np.zeros((height, width), np.float32)
    if camera.shadow > 0:
        # What stands `up` above the feet throws its shadow to (run * up, -rise * up); the transform wants the inverse.
        steep = max(math.tan(math.asin(camera.light.y)), 0.5)
        run, rise = -camera.light.x / steep, 0.25 + 0.3 * math.sin(camera.pitch)
        coverage = Image.fromarray((layer[4] * 255).astype(np.uint8))
        matrix = (1.0, run / rise, -run / rise * y, 0.0, 1.0 / rise, y - y / rise)
        thrown = coverage.transform(
            (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
        dark = np.asarray(thrown.filter(ImageFilter.BoxBlur(height / 90)), np.float32) * (camera.shadow / 255)
    rx = 0.17 * box.size * height
    ry = (0.03 + 0.05 * math.sin(camera.pitch)) * box.size * height
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
        middle = (width * rng.uniform(0.05, 0.95), height / 2)
        panel(layer, middle, (half, height), paint, camera.light, corner=0.5)
    elif kind == "block":
        middle = (width / 2, height * rng.uniform(1.68, 1.86))
        panel(layer, middle, (width, height), paint, camera.light, corner=2.0, shade=1.1)
    else:
        middle = (width * (-0.08 if rng.random() < 0.5 else 1.08), height * rng.uniform(0.6, 0.95))
        radii = (width * rng.uniform(0.18, 0.34), height * rng.uniform(0.14, 0.24))
        ball(layer, middle, radii, paint.color, camera.light)


def _develop(picture: Array, camera: Camera, rng: np.random.Generator) -> bytes:
    """From the light of a scene, [3, H, W], to a JPEG file."""
    sensor = camera.sensor
    grey = _LUMA[0] * picture[0] + _LUMA[1] * picture[1] + _LUMA[2] * picture[2]
    picture -= grey
    picture *= sensor.saturation
    picture += grey
    exposure = sensor.exposure * (1.0 + 0.04 * rng.standard_normal())
    picture *= np.array(sensor.cast, np.float32)[:, None, None] * (exposure * sensor.contrast * 255.0)
    picture += 127.5 * (1.0 - sensor.contrast) * min(sensor.exposure, 1.0)
    np.clip(picture, 0.0, 255.0, out=picture)
    image = Image.fromarray(np.ascontiguousarray(picture.astype(np.uint8).transpose(1, 2, 0)))
    image = image.filter(ImageFilter.GaussianBlur(sensor.blur * rng.uniform(0.7, 1.3)))
    rows, columns = round(camera.height * sensor.resolution), round(camera.width * sensor.resolution)
    values = np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR), np.float32)
    y, x = rng.integers(0, _TILE - rows), rng.integers(0, _TILE - columns)
    values = values + sensor.noise * _NOISE[y : y + rows, x : x + columns]
    image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    image = image.resize((camera.width, camera.height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=sensor.quality)
    return file.getvalue()


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
    top = ((MARGIN - 1) / 2 + camera.scene.foot - box.y + 0.01 * rng.standard_normal()) * height
    top = int(np.clip(top, 0, scene.shape[1] - height))
    left = int(np.clip(place, 0, 1) * (scene.shape[2] - width))
    rows, columns = slice(top, top + height), slice(left, left + width)
    picture = scene[:, rows, columns] * np.float32(camera.ambient + 0.5 * camera.sun)
    if rng.random() < FAR:
        _passer_by(picture, camera, rng, (0.25, 0.5))
    layer = new_layer(height, width)
    if subject is not None:
        view = View(box.size * height, box.x * width, box.y * height, camera.pitch, camera.light)
        draw_person(layer, *subject, view)
        _shadow(picture, layer, camera, box)
    if rng.random() < BLOCKED:
        _obstacle(layer, camera, rng)
    _over(picture, layer, camera)
    if rng.random() < NEAR:
        _passer_by(picture, camera, rng, (0.45, 0.65))
    picture *= camera.scene.lamps[rows, columns]
    return _develop(picture, camera, rng)
