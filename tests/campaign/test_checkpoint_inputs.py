"""A damaged checkpoint is refused in one line; what is read is what was written."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossreid.engine import checkpoint
from crossreid.engine.errors import USER_ERRORS
from crossreid.modeling import ModelError
from crossreid.modeling.weights import read_checkpoint
from tests.campaign.effort import assert_one_line, damage, effort
from tests.engine.test_checkpoint import objects
from tests.tiny import differences

STATE = objects()
CONTENT = copy.deepcopy(checkpoint.collect(STATE))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "last.pt"
    checkpoint.save(path, CONTENT)
    return path


@effort(150)
@given(data=st.data())
def test_any_damage_to_the_file(whole: Path, data: st.DataObject) -> None:
    file = whole.with_name("damaged.pt")
    file.write_bytes(damage(whole.read_bytes(), data))
    try:
        found = read_checkpoint(file)
    except ModelError as error:
        assert_one_line(error)
        return
    assert differences(found, CONTENT) == []  # bytes of the archive that mean nothing


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The keys of every value inside a checkpoint."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [found for key, inner in items for found in [(*path, key), *places(inner, (*path, key))]]


PLACES = [path for path in places(CONTENT) if path[0] != "scaler"]
tensors = st.sampled_from(
    [
        torch.zeros(()),
        torch.zeros(3),
        torch.zeros(4, 3).double(),
        torch.tensor([1, 2]),
        torch.ones(2, 2).bool(),
    ]
)
others = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5), tensors,
    st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def kinds(node: Any) -> Any:
    """Types and shapes of a state, without its values."""
    if isinstance(node, torch.Tensor):
        return node.dtype, tuple(node.shape)
    if isinstance(node, dict):
        return {key: kinds(value) for key, value in node.items()}
    return type(node)


@effort(150)
@given(place=st.sampled_from(PLACES), value=others)
def test_any_value_in_any_place(place: tuple[Any, ...], value: Any) -> None:
    content = copy.deepcopy(CONTENT)
    node: Any = content
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    state = objects()
    before = {name: kinds(state[name].state_dict()) for name in ("model", "memory", "labels")}
    try:
        checkpoint.restore(state, content, "last.pt")
    except USER_ERRORS as error:
        assert_one_line(error)
        return
    assert {name: kinds(state[name].state_dict()) for name in before} == before
    state["optimizer"].step()  # what was accepted can be trained with
    state["scheduler"].step()
