"""Garment patterns as functions of body azimuth (0 is the front, positive to the person's left) and height."""

from __future__ import annotations

import math

import numpy as np

from .drawing import Array, Pattern


def _wrapped(azimuth: Array) -> Array:
    return azimuth - (2 * math.pi) * np.round(azimuth * (0.5 / math.pi))


def _inside(distance: Array, scale: float) -> Array:
    """Soft step: 1 where `distance` (in body heights) is positive."""
    return np.clip(distance * scale + 0.5, 0.0, 1.0)


def _wave(position: Array, period: float, share: float, scale: float) -> Array:
    """Bars: 1 on `share` of every `period`."""
    distance = np.abs(position / period - np.floor(position / period) - 0.5)
    return _inside((distance - 0.5 * (1.0 - share)) * period, scale)


def _within(value: Array, low: float, high: float, scale: float) -> Array:
    return _inside(np.minimum(value - low, high - value), scale)


_RADIUS = 0.10  # body heights an azimuth radian: turns an angle into a length on the chest


def make_pattern(kind: str, size: float, place: float, length: float) -> Pattern | None:
    """Build the pattern function of a garment.

    Args:
        kind: stripes, check, block, band, logo, sides, dots, open, back, sleeves or plain.
        size: 0..1, small to large motif.
        place: 0..1, where the motif sits.
        length: the garment's length in body heights.

    Returns:
        The function, or None for a plain surface ("sleeves" colours the arms alone).
    """
    period = 0.035 + 0.04 * size
    middle = 0.07 + 0.06 * place

    def stripes(azimuth: Array, down: Array, scale: float) -> Array:
        return _wave(down, period, 0.3 + 0.3 * place, scale)

    def check(azimuth: Array, down: Array, scale: float) -> Array:
        across = _wave(azimuth * _RADIUS, period, 0.42, scale)
        return 0.55 * across + 0.45 * _wave(down, period, 0.42, scale)

    def block(azimuth: Array, down: Array, scale: float) -> Array:
        return _inside(down - length * (0.3 + 0.35 * place), scale)

    def band(azimuth: Array, down: Array, scale: float) -> Array:
        return _within(down, middle, middle + 0.04 + 0.06 * size, scale)

    def logo(azimuth: Array, down: Array, scale: float) -> Array:
        side = _wrapped(azimuth - (place - 0.5)) * _RADIUS
        half = 0.02 + 0.025 * size
        return _within(side, -half, half, scale) * _within(down, 0.08, 0.08 + 2 * half, scale)

    def sides(azimuth: Array, down: Array, scale: float) -> Array:
        return _inside((np.abs(np.sin(azimuth)) - (0.93 - 0.2 * size)) * _RADIUS, scale)

    def dots(azimuth: Array, down: Array, scale: float) -> Array:
        row = np.floor(down / period)
        x = azimuth * _RADIUS / period + 0.5 * row
        dx, dy = x - np.floor(x) - 0.5, down / period - row - 0.5
        return _inside((0.3 - np.hypot(dx, dy)) * period, scale)

    def open_front(azimuth: Array, down: Array, scale: float) -> Array:
        side = np.abs(_wrapped(azimuth)) * _RADIUS
        return _inside(0.018 + 0.02 * size + 0.06 * down * place - side, scale)

    def back(azimuth: Array, down: Array, scale: float) -> Array:
        side = np.abs(_wrapped(azimuth - math.pi)) * _RADIUS
        return _inside(0.035 + 0.035 * size - side, scale) * _within(down, 0.05, 0.12 + 0.06 * place, scale)

    table: dict[str, Pattern] = {
        "stripes": stripes,
        "check": check,
        "block": block,
        "band": band,
        "logo": logo,
        "sides": sides,
        "dots": dots,
        "open": open_front,
        "back": back,
    }
    return table.get(kind)


def quilting(azimuth: Array, down: Array, scale: float) -> Array:
    """Seams of a quilted jacket, as a share of the darker second colour."""
    return _wave(down, 0.055, 0.16, scale)
