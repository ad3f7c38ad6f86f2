"""Bags: backpack, shoulder bag, hand bag, suitcase."""

from __future__ import annotations

from collections.abc import Callable

from .drawing import Color, Paint
from .person import BULK
from .stage import Joint, Stage


def _darker(color: Color, factor: float) -> Color:
    return color[0] * factor, color[1] * factor, color[2] * factor


def _backpack(stage: Stage, collar: Joint, hand: Joint) -> None:
    person, size = stage.person, stage.person.bag_size
    bulk = BULK[person.upper]
    y, z = collar[1] - 0.12 * size, collar[2] - 0.11 * person.build - bulk
    half = (stage.breadth(0.088 * size, 0.055 * size), 0.135 * size)
    stage.box((0.0, y, z), half, person.bag_color, bias=0.07, corner=0.035)
    half = (stage.breadth(0.066 * size, 0.04 * size), 0.055 * size)
    pocket = (0.0, y - 0.06 * size, z - 0.03)
    stage.box(pocket, half, _darker(person.bag_color, 0.8), bias=0.075, corner=0.02)
    strap = Paint(_darker(person.bag_color, 0.7), fold=0.0)
    for x in (0.055, -0.055):
        top = (x, collar[1] + 0.02, collar[2] + 0.02)
        low = (1.2 * x, collar[1] - 0.15, collar[2] + 0.068 * person.build + bulk)
        stage.limb(top, low, (0.011, 0.01), strap, bias=0.06)


def _shoulder_bag(stage: Stage, collar: Joint, hand: Joint) -> None:
    person, size, side = stage.person, stage.person.bag_size, stage.person.bag_side
    hip = (side * (0.085 * person.build + 0.03), collar[1] - 0.3, 0.01)
    stage.box(hip, (stage.breadth(0.032, 0.085 * size), 0.062 * size), person.bag_color, bias=0.085)
    strap = Paint(_darker(person.bag_color, 0.7), fold=0.0)
    deep = 0.07 * person.build + BULK[person.upper]
    for z in (deep, -deep):  # before the chest and behind the back
        start, middle = (-side * 0.07, collar[1] + 0.025, 0.4 * z), (0.0, collar[1] - 0.13, z)
        stage.limb(start, middle, (0.008, 0.008), strap, bias=0.062)
        stage.limb(middle, (side * 0.085, hip[1] + 0.04, 0.6 * z), (0.008, 0.008), strap, bias=0.062)


def _hand_bag(stage: Stage, collar: Joint, hand: Joint) -> None:
    size, color = stage.person.bag_size, stage.person.bag_color
    low = (hand[0] + 0.01 * stage.person.bag_side, hand[1] - 0.085 * size, hand[2])
    stage.box(low, (stage.breadth(0.03, 0.085 * size), 0.06 * size), color, bias=0.088)
    handle = Paint(_darker(color, 0.7), fold=0.0)
    stage.limb(hand, (low[0], low[1] + 0.05, low[2]), (0.008, 0.02), handle, bias=0.086)


def _suitcase(stage: Stage, collar: Joint, hand: Joint) -> None:
    size, color = stage.person.bag_size, stage.person.bag_color
    x = 1.25 * hand[0] + 0.03 * stage.person.bag_side
    middle = (x, stage.ground + 0.14 * size, hand[2] - 0.12)
    half = (stage.breadth(0.085 * size, 0.055 * size), 0.13 * size)
    stage.box(middle, half, color, bias=0.05, corner=0.02)
    handle = Paint(_darker(color, 0.7), fold=0.0)
    stage.limb(hand, (x, middle[1] + 0.12 * size, middle[2]), (0.007, 0.007), handle, bias=0.04)


# stage, point between the shoulders, hand on the bag's side
BAGS: dict[str, Callable[[Stage, Joint, Joint], None]] = {
    "backpack": _backpack,
    "shoulder": _shoulder_bag,
    "hand": _hand_bag,
    "suitcase": _suitcase,
}
