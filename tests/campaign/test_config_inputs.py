"""Whatever a YAML or an override holds, the config loads with values in range or is refused in one line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossreid import configs
from crossreid.configs import ConfigError
from crossreid.configs.loading import values_of
from tests.campaign.effort import assert_one_line, effort

KEYS = sorted(values_of(configs.load(None)))
ODD = [
    "", " ", "~", "null", "off", "on", "No", "yes", "2020-13-45", "2020-01-01", "1e400", "-1e400", ".nan", ".inf",
    "0x10", "1_000", "99999999999999999999999999", "-0", "1.", "[", "{", "[1, 2", "{a: [}", "&a [*a]", "*a",
    "!!python/object/apply:os.system [x]", "!!binary aGk=", "!!int x", "!!set {a}",
    "!!timestamp x", "!!float x", "!!bool x", "!!omap x", "!!pairs [3]", "!!null x", "solver: {lr: 1}", "SOLVER.LR: 1",
    "<<: 3", "? [a]", "- - - a",
    "[" * 500, "a: " * 60, "\x00", "\ud800", "\u2028", "\ufeff1", "'", '"', "%TAG", "---\n...", "#", "@", "`", "..",
    "/", "~/x", "../../x", "[[[[1]]]]", "[.nan]", "[true]", "{1: 2}", "True", "1:30", "0o17", "\t1",
]  # fmt: skip
PIECES = [text.encode("utf-8", "surrogatepass") for text in ODD]
numbers = st.one_of(st.integers(), st.floats(), st.booleans(), st.none())
plain = st.one_of(numbers, st.text(max_size=30), st.sampled_from(ODD))
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=4), max_leaves=6)


def holds(tree: Any) -> None:
    """No value of an accepted config is NaN, infinite or of a foreign type."""
    for value in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(value, (dict, list, tuple)):
            holds(value)
        else:
            assert isinstance(value, (str, int, float, bool)), value
            assert not isinstance(value, float) or math.isfinite(value)


def loads(path: Path | str | None, overrides: list[str]) -> None:
    try:
        cfg = configs.load(path, overrides)
    except ConfigError as error:
        assert_one_line(error)
        return
    holds(cfg)
    assert configs.restore(cfg.dump())[0] == cfg


@effort(150)
@given(key=st.sampled_from(KEYS), value=values, spelt=st.booleans())
def test_any_value_of_any_key(key: str, value: Any, spelt: bool) -> None:
    text = value if isinstance(value, str) else str(value)
    loads(None, [f"{key}={text}"] if spelt else [key, text])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configs")


@effort(100)
@given(data=st.data())
def test_any_bytes_in_a_yaml(folder: Path, data: st.DataObject) -> None:
    whole = bytearray(Path("configs/demo.yml").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        piece = data.draw(
            st.one_of(
                st.binary(max_size=6), st.sampled_from([o.encode("utf-8", "surrogatepass") for o in ODD])
            )
        )
        whole[place : place + data.draw(st.integers(0, 6))] = piece
    file = folder / "changed.yml"
    file.write_bytes(bytes(whole))
    loads(file, [])
