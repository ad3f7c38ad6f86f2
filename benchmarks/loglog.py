"""A log-log plot with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

COLOURS = ("#888888", "#1f6fb4", "#c8502a", "#2c8a4b")
BOX = (110, 70, 820, 520)  # left, top, right, bottom of the axes
SIZE = (1080, 610)


def draw(
    path: Path, series: Mapping[str, Sequence[tuple[float, float]]], *, title: str, x: str, y: str
) -> None:
    """Draw each series as a line with points; lines of slope 1 and 2 would look straight."""
    image = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(18)
    points = [point for line in series.values() for point in line]
    spans = [_span([point[axis] for point in points]) for axis in (0, 1)]
    left, top, right, bottom = BOX

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across, up = ((math.log10(value) - low) / (high - low) for value, (low, high) in zip(point, spans))
        return left + across * (right - left), bottom - up * (bottom - top)

    for axis, (low, high) in enumerate(spans):
        for power in range(math.floor(low), math.ceil(high) + 1):
            for digit in range(1, 10):
                value = digit * 10.0**power
                if not low - 1e-9 <= math.log10(value) <= high + 1e-9:
                    continue
                at = place((value, 10 ** spans[1][0]) if axis == 0 else (10 ** spans[0][0], value))
                colour = "#bbbbbb" if digit == 1 else "#e8e8e8"
                pen.line((at[0], top, at[0], bottom) if axis == 0 else (left, at[1], right, at[1]), colour)
                if digit in (1, 2, 5):
                    label = f"{value:,.10g}"
                    spot = (at[0], bottom + 8) if axis == 0 else (left - 8, at[1])
                    pen.text(spot, label, "black", font, anchor="ma" if axis == 0 else "rm")
    pen.rectangle(BOX, outline="black")
    ends = []
    for colour, (name, line) in zip(COLOURS, series.items()):
        places = [place(point) for point in line]
        pen.line(places, colour, 3)
        for spot in places:
            pen.ellipse((spot[0] - 5, spot[1] - 5, spot[0] + 5, spot[1] + 5), colour)
        ends.append((places[-1][1], name, colour))
    last = -math.inf
    for height, name, colour in sorted(ends):  # names at the lines' ends, not on top of each other
        last = max(height, last + 24)
        pen.text((right + 14, last), name, colour, font, anchor="lm")
    pen.text((left, 28), title, "black", font, anchor="lm")
    pen.text(((left + right) / 2, bottom + 52), x, "black", font, anchor="mm")
    pen.text((left, top - 16), y, "black", font, anchor="mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(32).save(path, optimize=True)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Logarithms of a range around the values, with a little air."""
    return math.log10(min(values) / 1.3), math.log10(max(values) * 1.3)
