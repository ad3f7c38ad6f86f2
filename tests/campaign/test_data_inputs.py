"""Whatever lies in a dataset's folders or list, it is read or refused in one line."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from crossreid.datasets import DatasetError, Splits, load
from tests.campaign.effort import assert_one_line, effort

FOLDERS = ("bounding_box_train", "query", "bounding_box_test", "train", "gallery", "Query", "x", ".hidden")
numbers = st.integers(-9, 10**25)
cameras = st.sampled_from(["_c", "c", "_C", "_cam", "CAM", "_", ""])
endings = st.sampled_from([".jpg", ".png", ".JPEG", ".txt", ".webp", ".bmp", ""])
names = st.one_of(
    st.builds("{:04d}_c{}s1_{:06d}_00.jpg".format, st.integers(0, 9), st.integers(1, 3), st.integers(0, 99)),
    st.builds("{}{}{}{}{}".format, numbers, cameras, numbers, st.text("a_0.", max_size=3), endings),
    st.text(max_size=20).map(lambda text: re.sub("[/\0]", "_", text) or "_"),
    st.sampled_from(
        ["Thumbs.db", ".DS_Store", "-1_c1_1.jpg", "0000_c1_1.jpg", "\udcff_c1.jpg", "a.jpg", "_c1.jpg"]
    ),
)
entries = st.tuples(st.sampled_from(FOLDERS), names, st.sampled_from(["file", "folder", "link", "inside"]))
cells = st.one_of(
    st.sampled_from(
        ["a.jpg", "0", "-1", "1", "train", "query", "gallery", "path", "pid", "camid", "split", '"', "\0"]
    ),
    st.text(max_size=8),
)


def whole(splits: Splits) -> None:
    """Labels fit the images, and training identities are 0 to P - 1."""
    for split in (splits.train, splits.query, splits.gallery):
        assert len(split.paths) == len(split.pids) == len(split.cams)
    known = np.unique(splits.train.pids[splits.train.pids >= 0])
    assert known.tolist() == list(range(len(known)))


def reads(name: str) -> None:
    try:
        whole(load(name, Path("/nonexistent")))
    except DatasetError as error:
        assert_one_line(error)


@effort(100)
@given(tree=st.lists(entries, max_size=12))
def test_any_names_in_folders(tree: list[tuple[str, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as root:
        for part, name, kind in tree:
            path = Path(root, part, name)
            try:
                path.parent.mkdir(exist_ok=True)
                if kind == "folder":
                    path.mkdir()
                elif kind == "link":
                    path.symlink_to(Path(root, part))
                elif kind == "inside":
                    path.with_suffix("").mkdir()
                    (path.with_suffix("") / path.name).write_bytes(b"")
                else:
                    path.write_bytes(b"")
            except OSError:  # the name is taken, or the file system does not take it
                continue
        reads(f"folder:{root}")


@effort(100)
@given(
    table=st.lists(st.lists(cells, max_size=5), max_size=6),
    raw=st.binary(max_size=60),
    encoding=st.sampled_from(["utf-8", "utf-16", "latin-1", "utf-8-sig"]),
)
def test_any_text_in_a_list(table: list[list[str]], raw: bytes, encoding: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        lines = ["path,pid,camid,split", *(",".join(row) for row in table)]
        Path(root, "list.csv").write_bytes("\n".join(lines).encode(encoding, "replace") + raw)
        Path(root, "a.jpg").write_bytes(b"")
        reads(f"csv:{root}/list.csv")
