"""The built-in domains: what people wear, where they walk, how the cameras see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Range = tuple[float, float]
Weights = Mapping[str, float]

COLORS: dict[str, tuple[int, int, int]] = {
    "black": (26, 26, 30),
    "charcoal": (58, 60, 66),
    "grey": (125, 128, 132),
    "silver": (188, 190, 192),
    "white": (240, 240, 236),
    "cream": (226, 214, 188),
    "beige": (200, 178, 138),
    "camel": (172, 128, 76),
    "brown": (96, 64, 42),
    "rust": (158, 76, 36),
    "burgundy": (104, 24, 40),
    "red": (206, 32, 36),
    "coral": (238, 112, 88),
    "pink": (238, 132, 176),
    "magenta": (196, 36, 132),
    "purple": (112, 56, 150),
    "lilac": (182, 160, 214),
    "navy": (28, 36, 78),
    "denim": (66, 92, 140),
    "faded": (126, 152, 188),
    "royal": (36, 80, 200),
    "sky": (122, 186, 230),
    "teal": (24, 116, 122),
    "mint": (150, 214, 182),
    "green": (40, 128, 62),
    "forest": (28, 70, 48),
    "olive": (96, 98, 52),
    "mustard": (202, 156, 40),
    "yellow": (246, 214, 52),
    "orange": (240, 130, 34),
    "lime": (196, 228, 40),
}


@dataclass(frozen=True)
class DomainStyle:
    """One domain: weights of attributes and ranges of its cameras' settings."""

    summary: str
    uppers: Weights
    lowers: Weights
    upper_colors: Weights
    lower_colors: Weights
    patterns: Weights
    bags: Weights
    hats: Weights
    shoes: Weights
    scarf: float  # probability
    scenes: tuple[str, ...]  # dealt out to the cameras in turn
    exposure: Range  # factor on the picture
    contrast: Range  # slope about mid grey
    cast: Range  # strength of the colour cast
    saturation: Range
    sun: Range  # share of directed light
    elevation: Range  # of the main light, radians
    cast_shadow: float  # darkness of the shadow thrown on the ground, 0..1
    blur: Range  # pixels at 128 rows
    noise: Range  # of 255
    resolution: Range  # rows of the sensor per row of the picture
    quality: tuple[int, int]  # JPEG
    warmth: float = 0.0  # shift of all casts: positive to orange, negative to blue
    pools: float = 0.0  # unevenness of the light over the scene
    relief: float = 0.7  # contrast of the scenes


_DENIM = {"denim": 3.0, "navy": 2.0, "black": 3.0, "charcoal": 1.5, "faded": 1.5}

SUMMER = DomainStyle(
    summary="bright day: light clothes, bare arms and legs; plaza, lawn, brick, road",
    uppers={"tshirt": 5, "tank": 2, "shirt": 2, "dress": 1.7, "hoodie": 0.6, "jacket": 0.5},
    lowers={"shorts": 4, "skirt": 2, "slim": 1.5, "trousers": 2, "wide": 1},
    upper_colors={
        "white": 5, "black": 3, "sky": 2, "royal": 2, "red": 2, "yellow": 1.6, "pink": 1.6, "mint": 1.4,
        "coral": 1.4, "navy": 1.6, "grey": 1.6, "green": 1.2, "orange": 1.1, "lilac": 1.1, "lime": 0.6,
    },
    lower_colors={
        "beige": 3, "white": 1.8, "faded": 2.5, "denim": 3, "black": 3, "olive": 1.2, "pink": 0.8, "royal": 0.8,
        "red": 0.7, "grey": 1.4, "mint": 0.6, "cream": 1.2,
    },
    patterns={
        "plain": 6, "stripes": 2, "check": 0.7, "block": 1.2, "band": 1, "logo": 2, "sides": 0.8, "dots": 0.8,
        "open": 0.4, "back": 1, "sleeves": 0.8,
    },
    bags={"none": 5, "backpack": 2.4, "shoulder": 1.6, "hand": 1.2, "suitcase": 0.2},
    hats={"none": 6, "cap": 2, "sunhat": 0.8},
    shoes={"white": 4, "black": 2, "camel": 1.5, "red": 0.6, "royal": 0.8, "grey": 1},
    scarf=0.0,
    scenes=("plaza", "lawn", "brick", "road", "park", "promenade"),
    exposure=(0.9, 1.14), contrast=(0.98, 1.16), cast=(0.015, 0.055), saturation=(0.82, 1.05),
    sun=(0.45, 0.75), elevation=(0.6, 1.1), cast_shadow=0.45,
    blur=(0.1, 0.6), noise=(1.5, 4.0), resolution=(0.75, 1.0), quality=(78, 94), warmth=0.02, relief=0.5, pools=0.06,
)  # fmt: skip

WINTER = DomainStyle(
    summary="dusk in the cold: dark coats, puffers, scarves, boots; snow, platform, street, hall",
    uppers={"coat": 3.2, "puffer": 3, "jacket": 2.4, "hoodie": 1.4, "shirt": 0.6},
    lowers={"trousers": 4, "slim": 4, "wide": 1.3, "skirt": 0.8},
    upper_colors={
        "black": 5, "charcoal": 3, "navy": 3.2, "olive": 2, "grey": 2, "camel": 1.8, "burgundy": 1.6,
        "forest": 1.5, "brown": 1.5, "cream": 1.3, "teal": 0.9, "mustard": 0.8, "rust": 0.9, "red": 0.7,
        "silver": 0.9,
    },
    lower_colors={**_DENIM, "black": 5, "brown": 1.2, "olive": 1, "grey": 1.5, "beige": 0.8, "burgundy": 0.5},
    patterns={
        "plain": 6, "stripes": 0.8, "check": 1.6, "block": 1.6, "band": 1.1, "logo": 0.8, "sides": 0.8,
        "dots": 0.2, "open": 2, "back": 1, "sleeves": 1.1,
    },
    bags={"none": 4.4, "backpack": 2.6, "shoulder": 1.6, "hand": 1.3, "suitcase": 0.8},
    hats={"none": 4.5, "beanie": 3, "hood": 1.6, "cap": 0.6},
    shoes={"black": 5, "brown": 3, "camel": 1, "white": 1, "grey": 1},
    scarf=0.35,
    scenes=("snow", "platform", "street", "hall", "snowpark", "concourse"),
    exposure=(0.8, 1.0), contrast=(0.86, 1.0), cast=(0.02, 0.07), saturation=(0.68, 0.95),
    sun=(0.15, 0.35), elevation=(0.3, 0.9), cast_shadow=0.0,
    blur=(0.2, 0.75), noise=(2.5, 5.5), resolution=(0.68, 1.0), quality=(60, 85), warmth=-0.03, relief=0.5, pools=0.1,
)  # fmt: skip

NIGHT = DomainStyle(
    summary="street lamps and shop windows: hard light, high gain; wet road, car park, underpass",
    uppers={"jacket": 3, "shirt": 2.2, "tshirt": 2.4, "hoodie": 2.4, "dress": 1.5, "coat": 0.8, "tank": 0.6},
    lowers={"slim": 4, "trousers": 3, "skirt": 1.6, "shorts": 1, "wide": 0.8},
    upper_colors={
        "black": 4.5, "white": 3, "charcoal": 2, "red": 1.5, "magenta": 1.2, "teal": 1.4, "royal": 1.3,
        "denim": 2, "purple": 1.2, "silver": 1.3, "burgundy": 1.3, "mustard": 0.9, "olive": 1.1, "lime": 0.8,
    },
    lower_colors={**_DENIM, "white": 0.8, "grey": 1.4, "burgundy": 0.7, "silver": 0.7, "teal": 0.4},
    patterns={
        "plain": 5, "stripes": 1.4, "check": 1.2, "block": 1.1, "band": 0.9, "logo": 1.8, "sides": 1.2,
        "dots": 0.6, "open": 2, "back": 1.4, "sleeves": 1.3,
    },
    bags={"none": 6, "shoulder": 2, "hand": 1.6, "backpack": 1.4},
    hats={"none": 7, "cap": 1.8, "hood": 1.2},
    shoes={"white": 3, "black": 4, "red": 0.8, "brown": 1.2, "silver": 0.8},
    scarf=0.05,
    scenes=("neon", "wetroad", "carpark", "underpass", "shopfront", "alley"),
    exposure=(0.8, 1.1), contrast=(1.05, 1.2), cast=(0.05, 0.14), saturation=(0.6, 0.9),
    sun=(0.4, 0.7), elevation=(0.4, 1.2), cast_shadow=0.5,
    blur=(0.3, 0.9), noise=(5.0, 9.0), resolution=(0.6, 0.95), quality=(50, 80), warmth=0.06, relief=0.6, pools=0.22,
)  # fmt: skip

INDOOR = DomainStyle(
    summary="mall and offices: business and casual clothes; glossy floors, lamps, shelves, glass",
    uppers={"shirt": 4, "jacket": 2.6, "tshirt": 1.8, "hoodie": 1.2, "dress": 1.6, "coat": 0.7},
    lowers={"trousers": 4, "slim": 2.6, "skirt": 2, "wide": 1.6, "shorts": 0.4},
    upper_colors={
        "white": 4.5, "sky": 2.4, "grey": 2.6, "charcoal": 2.4, "navy": 3, "beige": 1.8, "black": 2.5,
        "lilac": 1.2, "pink": 1, "mint": 0.8, "burgundy": 1.1, "camel": 1.1, "teal": 0.9, "forest": 0.9,
    },
    lower_colors={**_DENIM, "beige": 2, "grey": 2.6, "camel": 1, "cream": 0.8, "brown": 0.8, "navy": 3},
    patterns={
        "plain": 5.5, "stripes": 1.6, "check": 1.5, "block": 0.8, "band": 0.5, "logo": 0.8, "sides": 0.5,
        "dots": 0.7, "open": 2.6, "back": 0.4, "sleeves": 0.5,
    },
    bags={"none": 4, "shoulder": 2, "hand": 2.4, "backpack": 1.6, "suitcase": 1.4},
    hats={"none": 9, "cap": 0.7},
    shoes={"black": 4, "brown": 2.4, "white": 2, "beige": 0.8, "burgundy": 0.5},
    scarf=0.08,
    scenes=("mall", "corridor", "shelves", "lobby", "gallery", "escalator"),
    exposure=(0.88, 1.1), contrast=(0.85, 1.02), cast=(0.02, 0.07), saturation=(0.7, 0.95),
    sun=(0.15, 0.4), elevation=(0.9, 1.4), cast_shadow=0.0,
    blur=(0.2, 0.75), noise=(2.0, 5.0), resolution=(0.65, 1.0), quality=(65, 90), warmth=0.02, relief=0.5, pools=0.1,
)  # fmt: skip

DOMAINS: dict[str, DomainStyle] = {"summer": SUMMER, "winter": WINTER, "night": NIGHT, "indoor": INDOOR}
