"""How many inputs the campaign tries: a few by default, ``CAMPAIGN=10000`` of each kind in ``make campaign``."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

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
