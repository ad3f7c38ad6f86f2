"""Who is drawn: a person's lasting attributes, and the way they walk past one camera."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from .domains import COLORS, DomainStyle
from .drawing import Color, Paint
from .patterns import make_pattern, quilting

SKIN = ((244, 212, 188), (228, 184, 150), (204, 154, 116), (168, 116, 80), (120, 78, 54), (84, 54, 40))
HAIR = (
    (24, 20, 20),
    (52, 36, 26),
    (92, 60, 36),
    (148, 104, 56),
    (212, 176, 108),
    (150, 148, 146),
    (130, 56, 28),
)
LONG_SLEEVES = ("shirt", "hoodie", "jacket", "coat", "puffer")
HEM = {"tshirt": 0.04, "tank": 0.03, "shirt": 0.03, "hoodie": 0.05, "jacket": 0.04, "puffer": 0.05}
BULK = {"tank": 0.0, "tshirt": 0.002, "shirt": 0.003, "dress": 0.001, "hoodie": 0.009, "jacket": 0.008,
        "coat": 0.011, "puffer": 0.022}  # fmt: skip


def generator(seed: int, *keys: int | str) -> np.random.Generator:
    """Random numbers that depend on the seed and the keys alone, whichever process draws them."""
    words = [zlib.crc32(key.encode()) if isinstance(key, str) else key for key in keys]
    return np.random.default_rng([seed, *words])


def pick(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    """One of the keys, by weight."""
    names, values = list(weights), np.cumsum(list(weights.values()))
    return names[int(np.searchsorted(values, rng.random() * values[-1], side="right"))]


def color(rng: np.random.Generator, rgb: tuple[int, int, int], jitter: float = 0.05) -> Color:
    """The colour as 0..1, moved a little in brightness and hue."""
    values = np.array(rgb) / 255.0 * (
        1.0 + jitter * rng.standard_normal()
    ) + 0.4 * jitter * rng.standard_normal(3)
    red, green, blue = np.clip(values, 0.03, 0.97).tolist()
    return red, green, blue


@dataclass(frozen=True)
class Person:
    """Attributes that stay the same in every image of one identity; lengths in body heights."""

    height: float  # factor
    build: float  # factor on widths
    shoulders: float  # half-width
    hips: float
    skin: Paint
    hair: Color
    hair_style: str  # bald, short, bob, long, tail, bun
    beard: bool
    glasses: bool
    hat: str
    hat_color: Color
    upper: str
    upper_paint: Paint
    sleeve_paint: Paint
    sleeve: float  # 0 none, 0.5 short, 1 long
    hem: float  # how far the upper garment hangs below the hip
    lower: str
    lower_paint: Paint
    lower_length: float  # share of the leg that is covered
    shoe: Color
    boots: bool
    tights: bool
    scarf: Color | None
    bag: str
    bag_color: Color
    bag_side: int
    bag_size: float


def _garment(rng: np.random.Generator, style: DomainStyle, upper: str, length: float) -> tuple[Paint, Paint]:
    main = pick(rng, style.upper_colors)
    other = main
    while other == main:
        other = pick(rng, style.upper_colors)
    first, second = color(rng, COLORS[main]), color(rng, COLORS[other])
    kind = pick(rng, style.patterns)
    if kind == "open" and upper not in ("jacket", "coat", "hoodie", "shirt", "puffer"):
        kind = "plain"
    size, place = rng.random(), rng.random()
    pattern = make_pattern(kind, size, place, length)
    if upper == "puffer" and pattern is None:
        dark = (first[0] * 0.55, first[1] * 0.55, first[2] * 0.55)
        second, pattern = (second if kind == "sleeves" else dark), quilting
    offset = (int(rng.integers(0, 600)), int(rng.integers(0, 600)))
    body = Paint(first, second, None if kind == "sleeves" else pattern, 0.2, offset)
    if kind == "sleeves":
        return body, replace(body, color=second)
    return body, body if kind in ("stripes", "check", "dots") else replace(body, pattern=None)


def _lower(rng: np.random.Generator, style: DomainStyle, lower: str) -> Paint:
    first, second = (
        color(rng, COLORS[pick(rng, style.lower_colors)]),
        color(rng, COLORS[pick(rng, style.upper_colors)]),
    )
    kind = "sides" if rng.random() < 0.1 else "plain"
    if lower == "skirt" and rng.random() < 0.3:
        kind = "check" if rng.random() < 0.5 else "dots"
    pattern = make_pattern(kind, rng.random(), rng.random(), 0.3)
    return Paint(first, second, pattern, 0.18, (int(rng.integers(0, 600)), int(rng.integers(0, 600))))


def make_person(rng: np.random.Generator, style: DomainStyle) -> Person:
    """Draw a person's attributes from a domain's wardrobe."""
    female = rng.random() < 0.5
    upper, lower = pick(rng, style.uppers), pick(rng, style.lowers)
    while (not female and upper == "dress") or (lower == "skirt" and not female):
        upper, lower = pick(rng, style.uppers), pick(rng, style.lowers)
    hem = HEM.get(upper, 0.0) + 0.03 * rng.random()
    if upper in ("dress", "coat"):
        hem = 0.12 + 0.16 * rng.random()
    if upper == "dress":
        lower = "bare"
    body, sleeve = _garment(rng, style, upper, 0.3 + hem)
    length = {"shorts": 0.3 + 0.16 * rng.random(), "bare": 0.0, "skirt": 0.3 + 0.3 * rng.random()}.get(
        lower, 1.0
    )
    long_hair = {"bob": 2.0, "long": 4.0, "tail": 2.0, "bun": 1.0, "short": 1.0}
    hat = pick(rng, style.hats)
    return Person(
        height=float(np.clip(rng.normal(0.955 if female else 1.02, 0.035), 0.86, 1.1)),
        build=float(np.clip(rng.normal(0.96 if female else 1.04, 0.12), 0.78, 1.4)),
        shoulders=float(rng.normal(0.098 if female else 0.11, 0.005)),
        hips=float(rng.normal(0.092 if female else 0.084, 0.005)),
        skin=Paint(color(rng, SKIN[int(rng.integers(len(SKIN)))], 0.03), fold=0.04),
        hair=color(rng, HAIR[int(rng.integers(len(HAIR)))]),
        hair_style=pick(rng, long_hair if female else {"short": 7.0, "bald": 1.2, "bob": 0.7, "tail": 0.3}),
        beard=not female and rng.random() < 0.3,
        glasses=rng.random() < 0.15,
        hat=hat,
        hat_color=body.color if hat == "hood" else color(rng, COLORS[pick(rng, style.upper_colors)]),
        upper=upper,
        upper_paint=body,
        sleeve_paint=sleeve,
        sleeve=1.0
        if upper in LONG_SLEEVES
        else 0.0
        if upper == "tank"
        else (0.5 if rng.random() < 0.75 else 0.0),
        hem=hem,
        lower=lower,
        lower_paint=_lower(rng, style, lower),
        lower_length=length,
        shoe=color(rng, COLORS[pick(rng, style.shoes)]),
        boots=rng.random() < (0.5 if style.scarf > 0.2 else 0.03),
        tights=female and rng.random() < (0.9 if style.scarf > 0.2 else 0.1),
        scarf=color(rng, COLORS[pick(rng, style.upper_colors)]) if rng.random() < style.scarf else None,
        bag=pick(rng, style.bags),
        bag_color=color(
            rng, COLORS[pick(rng, {**style.shoes, "black": 4.0, "red": 0.8, "olive": 1.0, "teal": 0.8})]
        ),
        bag_side=1 if rng.random() < 0.5 else -1,
        bag_size=float(rng.uniform(0.8, 1.25)),
    )
