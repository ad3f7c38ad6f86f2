"""How many inputs the campaign tries: a few by default, ``CAMPAIGN=10000`` of each kind in ``make campaign``."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

INPUTS = int(os.environ.get("CAMPAIGN", "0"))


def effort(short: int) -> settings:
    """Settings of hypothesis for one kind of input; the short run tries the same inputs every time."""
    return settings(
        max_examples=INPUTS or short,
        deadline=None,
        derandomize=not INPUTS,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def assert_one_line(error: Exception) -> None:
    """A message suits a terminal: one line of bounded length."""
    text = str(error)
    assert text.strip()
    assert "\n" not in text, text
    assert "\r" not in text, text
    assert len(text) < 4000, text


def damage(whole: bytes, data: st.DataObject) -> bytes:
    """A file's bytes with one of them flipped, or some cut off, zeroed, inserted or moved."""
    damaged = bytearray(whole)
    kind = data.draw(st.sampled_from(["bit", "cut", "zeros", "insert", "swap"]))
    place = data.draw(st.integers(0, len(damaged) - 1))
    if kind == "bit":
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del damaged[place:]
    elif kind == "zeros":
        size = data.draw(st.integers(1, 5000))
        damaged[place : place + size] = bytes(len(damaged[place : place + size]))
    elif kind == "insert":
        damaged[place:place] = data.draw(st.binary(min_size=1, max_size=20))
    else:
        damaged = damaged[place:] + damaged[:place]
    return bytes(damaged)
