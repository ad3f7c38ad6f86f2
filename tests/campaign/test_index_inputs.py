"""A damaged index is refused in one line, or is read and searched; never a crash."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossreid.engine.deploy import index as module
from crossreid.engine.deploy.index import open_index
from crossreid.engine.deploy.photos import Photo
from crossreid.engine.deploy.search import nearest
from crossreid.engine.errors import InputError
from tests.campaign.effort import assert_one_line, damage, effort

FILES = (module.META, module.VECTORS, module.PHOTOS)
odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.lists(st.integers(), max_size=3),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "whole"
    vectors = np.eye(6, 4, dtype=np.float32)
    photos = [Photo(f"/photos/{n}.jpg", camera=f"door{n % 2}") for n in range(6)]
    stamps = np.zeros((6, 2), np.int64)
    meta = {
        "format": 1,
        "digest": "abc",
        "dim": 4,
        "dtype": "float32",
        "count": 6,
        "checkpoint": "x.pt",
        "source": "/photos",
    }
    module._write(folder, vectors, photos, stamps, meta)
    assert len(open_index(folder)) == 6
    return folder


@effort(150)
@given(data=st.data())
def test_any_damage(whole: Path, data: st.DataObject) -> None:
    content = {name: (whole / name).read_bytes() for name in FILES}
    folder = whole.with_name("damaged")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    name = data.draw(st.sampled_from(FILES))
    kind = data.draw(st.sampled_from(["damage", "gone", "folder", "value"]))
    if kind == "value":
        meta = json.loads(content[module.META])
        meta[data.draw(st.sampled_from(sorted(meta)))] = data.draw(odd)
        content[module.META] = json.dumps(meta).encode()
    elif kind == "damage":
        content[name] = damage(content[name], data)
    else:
        del content[name]
    if kind == "folder":
        (folder / name).mkdir()
    for left, raw in content.items():
        (folder / left).write_bytes(raw)
    try:
        found = open_index(folder)
        assert len(found) == len(found.columns.paths) == 6
        nearest(found.vectors, np.full(4, 0.5, np.float32), 3)
        names = [found.camera(row) for row in range(len(found))]
    except InputError as error:
        assert_one_line(error)
        return
    assert len(names) == 6
