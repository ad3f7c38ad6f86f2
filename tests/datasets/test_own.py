"""One's own images: cameras without names, tables, folders; identities that nobody knows."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import numpy as np
import pytest

from crossreid.datasets import DatasetError, Splits, load
from crossreid.datasets.cameras import number_cameras
from tests.datasets import trees


def names(paths: tuple[str, ...]) -> list[str]:
    return [Path(path).name for path in paths]


def cameras(root: Path, *folders: str) -> Path:
    for folder in folders:
        trees.pictures(root / folder, ["a b.jpg", "track 7/ü.png", "track 7/x/0001_c9.jpg"])
    return root


def test_a_folder_a_camera_with_any_names(tmp_path: Path) -> None:
    root = cameras(tmp_path / "own", "yard", "entrance")
    splits = load(f"cameras:{root}")
    assert names(splits.train.paths) == ["a b.jpg", "0001_c9.jpg", "ü.png"] * 2
    assert splits.train.cams.tolist() == [1, 1, 1, 2, 2, 2]
    assert splits.train.pids.tolist() == [-1] * 6
    assert (splits.train.num_identities, len(splits.query), len(splits.gallery)) == (0, 0, 0)
    assert splits.cameras == {1: "entrance", 2: "yard"}
    assert not splits.scored
    assert (
        load("cameras:own", tmp_path).train.paths == load("cameras", root).train.paths == splits.train.paths
    )


@pytest.mark.parametrize(
    ("folders", "numbers"),
    [
        (["cam2", "cam10"], [2, 10]),
        (["2024-cam1", "2024-cam2"], [1, 2]),
        (["c1", "c01"], [1, 2]),
        (["c1", "hall"], [1, 2]),
        (["1700000000000000001", "1700000000000000002"], [1, 2]),
    ],
)
def test_cameras_keep_the_number_in_their_name_where_all_have_one(
    folders: list[str], numbers: list[int]
) -> None:
    assert list(number_cameras(folders).values()) == numbers


def test_camera_folders_through_links_and_an_archive_of_its_own_name(tmp_path: Path) -> None:
    cameras(tmp_path / "far", "c3")
    inner = tmp_path / "own" / "own"
    cameras(inner, "c1")
    (inner / "c2").symlink_to(tmp_path / "far" / "c3")
    assert np.unique(load(f"cameras:{tmp_path / 'own'}").train.cams).tolist() == [1, 2]
    (inner / "c1" / "loop").symlink_to(inner / "c1")
    with pytest.raises(DatasetError, match=r"loop: a link that leads back to .*; remove the link"):
        load(f"cameras:{tmp_path / 'own'}")


def test_what_is_wrong_with_camera_folders_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = cameras(tmp_path / "own", "c1")
    with caplog.at_level(logging.WARNING):
        assert "c1 is the only camera below" in load(f"cameras:{root}").warnings[0]
    assert "so that nothing can be learned across cameras" in caplog.text
    (root / "c2").mkdir()
    (root / "c2" / "readme.txt").write_text("x")
    for name, message in {
        str(root): r"c2 holds no images \(1 other files\); fill the folder or remove it",
        str(root / "c1"): r"c1 holds 1 images outside of its 1 folders, first a b.jpg; put the images",
        str(root / "c1" / "track 7" / "x"): r"x holds 1 images outside of its 0 folders",
        str(root / "c1" / "a b.jpg"): r"a b.jpg is not a folder; put the images of each camera",
        str(tmp_path / "nowhere"): r"no such file or folder: .*nowhere",
    }.items():
        with pytest.raises(DatasetError, match=message) as caught:
            load(f"cameras:{name}")
        assert "\n" not in str(caught.value)


def table(folder: Path, header: str, *rows: str, separator: str = ",") -> Splits:
    trees.pictures(folder, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    text = "\n".join([header, *rows]) + "\n"
    (folder / "list.csv").write_text(text.replace(",", separator), encoding="utf-8")
    return load(f"csv:{folder / 'list.csv'}")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_images_and_cameras_alone(tmp_path: Path, separator: str) -> None:
    splits = table(tmp_path, "path,camid", "a.jpg,3", "b.jpg,-1", separator=separator)
    assert splits.train.pids.tolist() == [-1, -1]
    assert splits.train.cams.tolist() == [3, -1]
    assert len(splits.query) == 0


def test_tables_without_split_and_with_unknown_identities(tmp_path: Path) -> None:
    splits = table(tmp_path, "path,pid,camid", "a.jpg,7,1", "b.jpg,-1,1", "c.jpg,3,2")
    assert splits.train.pids.tolist() == [1, -1, 0]
    assert splits.train.num_identities == 2
    known = splits.train.labelled()
    assert names(known.paths) == ["a.jpg", "c.jpg"]
    assert known.pids.tolist() == [1, 0]
    with pytest.raises(DatasetError, match=r"csv: no query and gallery with identities .* can be scored"):
        splits.need_scores()


def test_query_and_gallery_alone(tmp_path: Path) -> None:
    rows = ("a.jpg,7,1,query", "b.jpg,7,2,gallery", "c.jpg,-1,2,gallery")
    splits = table(tmp_path, "path,pid,camid,split", *rows)
    query, gallery = splits.need_scores()
    assert (query.pids.tolist(), gallery.pids.tolist(), gallery.junk) == ([7], [7], 1)
    with pytest.raises(
        DatasetError, match=r"csv: no training images below .*; add a training part, or use it"
    ):
        splits.need_training()
    rows = ("a.jpg,-1,1,query", "b.jpg,-1,2,gallery", "c.jpg,-1,2,train")
    with pytest.raises(DatasetError, match=r"\(2 images have the identity -1, unknown\)"):
        table(tmp_path, "path,pid,camid,split", *rows).need_scores()


def test_images_listed_twice_or_for_training_and_test_are_told(tmp_path: Path) -> None:
    rows = ("a.jpg,1,1,train", "b.jpg,2,1,train", "b.jpg,2,2,train", "a.jpg,1,1,query", "c.jpg,1,2,gallery")
    first, second = table(tmp_path, "path,pid,camid,split", *rows).warnings
    assert first.startswith("csv/train: 1 images are listed more than once")
    assert second.startswith(
        f"csv: 1 images are both in train and in query, first {tmp_path / 'a.jpg'}; scores"
    )


def test_numbers_of_any_length(tmp_path: Path) -> None:
    stamp = "20231105123045123456"
    rows = (
        f"a.jpg,{stamp},1,query",
        f"b.jpg,{stamp},{stamp}0,gallery",
        "c.jpg,5,1,gallery",
        "d.jpg,9,1,train",
    )
    splits = table(tmp_path, "path,pid,camid,split", *rows)
    assert splits.query.pids.tolist() == [1]
    assert splits.gallery.pids.tolist() == [1, 0]
    assert splits.gallery.cams.tolist() == [1, 0]
    assert splits.query.cams.tolist() == splits.train.cams.tolist() == [0]


def test_folders_of_unknown_identities_are_kept_for_training(tmp_path: Path) -> None:
    trees.pictures(tmp_path / "bounding_box_train", ["-1_c1_1.jpg", "-1_c2_2.jpg", "0004_c2_3.jpg"])
    splits = load(f"folder:{tmp_path}")
    assert splits.train.pids.tolist() == [-1, -1, 0]
    assert splits.train.unlabelled().pids.tolist() == [-1, -1, -1]
    (tmp_path / "query").mkdir()
    with pytest.raises(
        DatasetError, match=r"holds bounding_box_train, query; needed: train .* query with gallery"
    ):
        load(f"folder:{tmp_path}")
    (tmp_path / "Gallery").mkdir()
    with pytest.raises(
        DatasetError, match=r"folder/query: no images below .*query; fill the folder, or remove"
    ):
        load(f"folder:{tmp_path}")


def test_listed_images_that_are_missing_may_be_left_to_the_decoder(tmp_path: Path) -> None:
    table(tmp_path, "path,camid", "a.jpg,1", "b.jpg,2")
    (tmp_path / "b.jpg").unlink()
    with pytest.raises(DatasetError, match="line 3: no such image"):
        load(f"csv:{tmp_path / 'list.csv'}")
    assert len(load(f"csv:{tmp_path / 'list.csv'}", missing="keep").train) == 2


def test_a_reader_from_outside_may_give_a_part_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "__init__.py").write_text("")
    (tmp_path / "lab" / "reader.py").write_text(
        "from crossreid.datasets.splits import Splits, make_split\n"
        "def load(folder):\n"
        "    rows = [(str(p), -1, len(p.stem)) for p in sorted(folder.glob('*.jpg'))]\n"
        "    return Splits('lab', str(folder), train=make_split(rows, 'lab/train', relabel=True, unknown='keep'))\n"
    )
    trees.pictures(tmp_path / "data", ["a.jpg", "bb.jpg"])
    monkeypatch.syspath_prepend(tmp_path)
    splits = load("lab.reader:data", tmp_path)
    assert splits.train.cams.tolist() == [1, 2]
    assert not splits.scored
    (tmp_path / "data" / "a.jpg").unlink()
    (tmp_path / "data" / "bb.jpg").unlink()
    with pytest.raises(DatasetError, match="lab: no images with an identity or for training below"):
        load("lab.reader:data", tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs")
def test_a_fifo_without_extension_is_no_image_and_never_waited_for(tmp_path: Path) -> None:
    cameras(tmp_path, "c1", "c2")
    os.mkfifo(tmp_path / "c1" / "pipe")
    assert "(no extension), first pipe" in load(f"cameras:{tmp_path}").warnings[0]


@pytest.mark.parametrize("name", ["0001_c1\r.jpg", "0001_c1\n_2.jpg", "\x1b[2J0001_c1.jpg"])
def test_names_that_break_a_line_are_refused_and_shown(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    (folder / "Icon\r").touch()  # macOS leaves it in folders
    (folder / "0001_c1.jpg").touch()
    assert len(load(f"folder:{tmp_path}").train) == 1
    (folder / name).touch()
    with pytest.raises(DatasetError, match=r"holds a control character; rename it") as refused:
        load(f"folder:{tmp_path}")
    assert not re.search(r"[\x00-\x1f]", str(refused.value))


def test_tables_written_on_windows(tmp_path: Path) -> None:
    (tmp_path / "im").mkdir()
    (tmp_path / "im" / "a.jpg").touch()
    (tmp_path / "list.csv").write_text("path,pid,camid,split\r\nim\\a.jpg,1,1,Train\r\n")
    assert load(f"csv:{tmp_path / 'list.csv'}").train.paths == (str(tmp_path / "im" / "a.jpg"),)
