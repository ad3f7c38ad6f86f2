"""Damaged features are refused in one line, or are what was written, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.report import load_features, save_features
from crossreid.engine.evaluation.retrieval import Features, evaluate
from tests.campaign.effort import assert_one_line, damage, effort

PART = Features(torch.eye(6, 8), torch.arange(6), torch.arange(6) % 2, [f"/photos/{n}.jpg" for n in range(6)])
WHOLE = {name: getattr(PART, name).numpy() for name in ("vectors", "pids", "cams")} | {
    "paths": np.array(PART.paths)
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    save_features(folder, "run", PART, PART)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> bytes:
    return (folder / "run-query.npz").read_bytes()


@effort(100)
@given(data=st.data())
def test_any_damage_to_the_file(folder: Path, whole: bytes, data: st.DataObject) -> None:
    (folder / "run-query.npz").write_bytes(damage(whole, data))
    try:
        found = load_features(folder, "run")[0]
    except InputError as error:
        assert_one_line(error)
        return
    assert found.paths == PART.paths
    assert all(torch.equal(getattr(found, n), getattr(PART, n)) for n in ("vectors", "pids", "cams"))


arrays = st.builds(
    lambda shape, kind, value: np.full(shape, value).astype(kind),
    st.lists(st.integers(0, 8), max_size=3).map(tuple) | st.sampled_from([(6,), (6, 8), (6, 7)]),
    st.sampled_from(
        ["<f4", ">f4", "<f2", "f8", "g", "i8", ">i8", "u8", "u2", "i1", "?", "U3", "S2", "c8", "M8[s]"]
    ),
    st.sampled_from([0, 1, -1, 2**63, 5]),
)


@effort(100)
@given(name=st.sampled_from(sorted(WHOLE)), array=arrays)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_any_array_in_any_place(
    tmp_path_factory: pytest.TempPathFactory, name: str, array: np.ndarray
) -> None:
    folder = tmp_path_factory.getbasetemp()
    for part in ("query", "gallery"):
        np.savez(folder / f"odd-{part}.npz", **{**WHOLE, name: array})
    try:
        result = evaluate(*load_features(folder, "odd"))
    except InputError as error:
        assert_one_line(error)
        return
    assert len(result.per_query_ap) == 6
