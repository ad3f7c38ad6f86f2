from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crossreid import configs
from crossreid.datasets import DatasetError, counts, load
from crossreid.engine.reading import read
from tests.datasets import trees


def names(paths: tuple[str, ...]) -> list[str]:
    return [Path(path).name for path in paths]


@pytest.mark.parametrize("name", ["market", "market1501", "Market"])
@pytest.mark.parametrize(
    "where", ["Market-1501-v15.09.15", "market1501/Market-1501-v15.09.15", "MARKET", "."]
)
def test_market(tmp_path: Path, name: str, where: str) -> None:
    trees.market(tmp_path / where)
    splits = load(name, tmp_path)
    assert Path(splits.root) == (tmp_path / where).resolve() or Path(splits.root).samefile(tmp_path / where)
    assert len(splits.train) == 16
    assert splits.train.junk == 1
    assert splits.train.pids.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert splits.train.cams.tolist() == [1, 1, 3, 3] * 4
    assert list(splits.train.paths) == sorted(splits.train.paths)
    assert names(splits.query.paths) == ["0003_c1s1_000100_00.jpg", "0005_c6s2_000100_00.JPG"]
    assert splits.query.pids.tolist() == [3, 5]
    assert splits.gallery.pids.tolist() == [0, 3, 5, 5]
    assert splits.gallery.junk == 1
    assert splits.gallery.pids.dtype == np.int64 == splits.gallery.cams.dtype


def test_duke(tmp_path: Path) -> None:
    trees.duke(tmp_path / "dukemtmc" / "DukeMTMC-reID")
    splits = load("dukemtmc", tmp_path)
    assert splits.train.pids.tolist() == [0, 0, 1, 1]
    assert splits.train.cams.tolist() == [2, 8, 2, 8]
    assert splits.gallery.pids.tolist() == [3, 7139]


@pytest.mark.parametrize("subset", ["labeled", "detected"])
def test_cuhk_np_subset(tmp_path: Path, subset: str) -> None:
    trees.cuhk_np(tmp_path / "cuhk03-np" / subset)
    splits = load("cuhk", tmp_path, subset=subset)
    assert splits.root.endswith(subset)
    assert splits.train.cams.tolist() == [1, 2, 1, 2]
    other = {"labeled": "detected", "detected": "labeled"}[subset]
    with pytest.raises(DatasetError, match=f"cuhk03-np/{other}"):
        load("cuhknp", tmp_path, subset=other)


def test_cuhk03_old_protocol(tmp_path: Path) -> None:
    root = trees.cuhk03(tmp_path / "cuhk03" / "cuhk03_release")
    splits = load("cuhk03", tmp_path)
    assert splits.train.num_identities == 3
    assert splits.train.pids.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert splits.train.cams.tolist() == [0, 0, 1, 1] * 3
    assert set(splits.query.pids.tolist()) == {1, 3}
    assert set(load("cuhk03", tmp_path, split_id=1).gallery.pids.tolist()) == {0, 2, 4}
    with pytest.raises(DatasetError, match=r"split 2 asked for, the file holds 0..1"):
        load("cuhk03", tmp_path, split_id=2)
    (root / "images" / "0003_1_0001.png").unlink()
    with pytest.raises(
        DatasetError, match=r"1 images of meta.json are missing, the first: images/0003_1_0001.png"
    ):
        load("cuhk03", tmp_path)


def test_cuhk_sysu_trains_alone(tmp_path: Path) -> None:
    folder = tmp_path / "CUHK-SYSU" / "cropped_image"
    trees.pictures(folder, ["p7_n1_s3.png", "p11422_s16929_1.jpg", "p7_n2_s3.png"])
    splits = load("cuhksysu", tmp_path)
    assert splits.train.pids.tolist() == [1, 0, 0]  # sorted by path
    assert splits.train.cams.tolist() == [0, 0, 0]
    assert len(splits.query) == len(splits.gallery) == 0
    assert any("published: 11,934 identities, 34,574 images" in line for line in splits.warnings)
    with pytest.raises(DatasetError, match="nothing can be scored"):
        splits.need_scores()
    trees.pictures(folder, ["s5.jpg"])
    with pytest.raises(DatasetError, match=r"s5\.jpg: the file name does not begin with p<identity>_"):
        load("cuhk_sysu", tmp_path)


@pytest.mark.parametrize(
    ("name", "folders"), [("msmt", ("train", "test")), ("msmt17v2", ("mask_train_v2", "mask_test_v2"))]
)
def test_msmt_lists(tmp_path: Path, name: str, folders: tuple[str, str]) -> None:
    root = trees.msmt(tmp_path / ("MSMT17_V1" if name == "msmt" else "MSMT17_V2"), *folders)
    splits = load(name, tmp_path)
    assert splits.train.pids.tolist() == [0, 0, 1, 1]
    assert splits.train.cams.tolist() == [1, 9, 14, 15]
    assert splits.gallery.cams.tolist() == [12, 12]
    assert splits.gallery.pids.tolist() == [0, 3]
    assert load(name, tmp_path, train_val=False).train.cams.tolist() == [1, 14]
    (root / folders[1] / "0000" / "0000_000_05_0303morning_0020_0.jpg").unlink()
    with pytest.raises(DatasetError, match=r"query: 1 of 1 listed images are missing, first .*0000_000_05"):
        load(name, tmp_path)


def test_msmt_without_a_list_says_which(tmp_path: Path) -> None:
    root = trees.msmt(tmp_path / "MSMT17_V1")
    (root / "list_val.txt").unlink()
    with pytest.raises(DatasetError, match=r"MSMT17_V1 lacks list_val.txt.* set DATASETS.TRAIN_VAL False"):
        load("msmt17v1", tmp_path)
    assert load("msmt17v1", tmp_path, train_val=False).train.cams.tolist() == [1, 14]
    cfg = configs.load(None, ["DATASETS.ROOT", str(tmp_path)])
    assert len(read(cfg, "msmt", training=False).query) == 1  # an evaluation needs no training list
    (root / "list_query.txt").unlink()
    with pytest.raises(DatasetError, match=r"MSMT17_V1  \(there, but without list_query.txt\)"):
        load("msmt17v1", tmp_path, train_val=False)


def test_msmt_list_line_that_does_not_parse(tmp_path: Path) -> None:
    root = trees.msmt(tmp_path / "MSMT17_V1")
    with (root / "list_query.txt").open("a") as file:
        file.write("0000/nonsense.jpg 0\n")
    with pytest.raises(DatasetError, match=r"list_query.txt, line 2: '0000/nonsense.jpg 0' is not"):
        load("msmt", tmp_path)


def test_msmt_version_two_is_not_one(tmp_path: Path) -> None:
    trees.msmt(tmp_path / "msmt17v1", "mask_train_v2", "mask_test_v2")
    with pytest.raises(DatasetError, match="ask for msmt17v2 instead"):
        load("msmt", tmp_path)


def test_msmt_market_style_has_cameras_of_two_digits(tmp_path: Path) -> None:
    trees.msmt_market_style(tmp_path / "MSMT17_V1")
    splits = load("msmt17v1", tmp_path)
    assert splits.train.cams.tolist() == [15, 1, 15, 1]  # "c15_" sorts before "c1_"
    assert splits.query.cams.tolist() == [14]


def test_csv(tmp_path: Path) -> None:
    trees.pictures(tmp_path / "shots", ["b.jpg", "a.png", "q.bmp", "g.jpeg"])
    table = tmp_path / "list.csv"
    rows = [
        "split, camid,path,pid",
        "train,4,shots/b.jpg,70",
        "train,2,shots/a.png,9",
        "query,1,shots/q.bmp,5",
    ]
    table.write_text("\ufeff" + "\n".join([*rows, "gallery,2,shots/g.jpeg,5"]) + "\n", encoding="utf-8")
    for name, root in ((f"csv:{table}", None), ("csv", tmp_path), ("csv", table), ("csv:list.csv", tmp_path)):
        splits = load(name, root)
        assert names(splits.train.paths) == ["a.png", "b.jpg"]
        assert splits.train.pids.tolist() == [0, 1]
        assert splits.train.cams.tolist() == [2, 4]
        assert splits.query.pids.tolist() == [5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,pid,split\n", "column camid is missing"),
        (
            "path,pid,camid,split\na.jpg,1,1,test\n",
            "line 2: split 'test' is not one of train, query, gallery",
        ),
        (
            "path,pid,camid,split\na.jpg,one,1,train\n",
            "line 2: pid 'one' and camid '1' must be whole numbers",
        ),
        ("path,pid,camid,split\nb.jpg,1,1,train\n", r"line 2: no such image .*b.jpg"),
        ("path,pid,camid,split\na.jpg,1\n", "line 2: split '' is not one of"),
        ("path,pid,camid,split\na.jpg,1,1,query\n", "1 query images but none with split gallery"),
        ("path,pid,camid,split\na.jpg,1,-2,train\n", "line 2: pid 1 and camid -2 must be 0 or more, or -1"),
        ("path,pid,camid,split\n", "no images; below the header needs a line an image"),
        ('path,camid\n"' + "a" * 200_000 + '",1\n', r"own.csv, line 1: is not CSV \(field larger"),
        (
            "path,camid\na.jpg," + "1" * 5000 + "\n",
            "line 2: pid '-1' and camid '1{40}' must be whole numbers",
        ),
    ],
)
def test_csv_errors(tmp_path: Path, text: str, message: str) -> None:
    trees.picture(tmp_path / "a.jpg")
    (tmp_path / "own.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        load("csv", tmp_path)


@pytest.mark.parametrize(
    "folders", [("train", "query", "gallery"), ("bounding_box_train", "query", "bounding_box_test")]
)
def test_own_folders(tmp_path: Path, folders: tuple[str, str, str]) -> None:
    for folder, name in zip(folders, ("12_c1.png", "5_c2.webp", "5_c10_x.TIFF")):
        trees.picture(tmp_path / "own" / folder / name)
    for splits in (
        load("folder", tmp_path / "own"),
        load("folder:own", tmp_path),
        load(f"folder:{tmp_path}/own"),
    ):
        assert splits.gallery.cams.tolist() == [10]
    assert load("folder", tmp_path).root == str(tmp_path / "own")  # an archive's own folder
    (tmp_path / "other").mkdir()
    with pytest.raises(DatasetError, match=r"folder: .* holds other, own; needed: train .*cameras:<folder>"):
        load("folder", tmp_path)


def test_not_found_lists_paths_and_tree(tmp_path: Path) -> None:
    (tmp_path / "market1501" / "query").mkdir(parents=True)
    with pytest.raises(DatasetError) as caught:
        load("market", tmp_path)
    text = str(caught.value)
    for line in (
        f"{tmp_path}/Market-1501-v15.09.15  (not there)",
        f"{tmp_path}/market1501  (there, but without bounding_box_train, bounding_box_test)",
        "    bounding_box_test/",
        "0002_c1s1_000451_03.jpg",
        "REID_DATASETS",
    ):
        assert line in text
    with pytest.raises(DatasetError, match=r"nowhere, which does not exist"):
        load("duke", tmp_path / "nowhere")


def test_root_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.duke(tmp_path / "duke")
    monkeypatch.setenv("REID_DATASETS", str(tmp_path))
    assert len(load("duke").train) == 4


@pytest.mark.parametrize(
    ("name", "hint"),
    [("markt", "did you mean market"), ("msmt17", "did you mean msmt"), ("synthetic", "a domain is needed")],
)
def test_unknown_names(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(DatasetError, match=hint):
        load(name, tmp_path)


def test_name_that_does_not_parse(tmp_path: Path) -> None:
    root = trees.market(tmp_path / "market")
    trees.picture(root / "query" / "IMG_2041.jpg")
    with pytest.raises(DatasetError, match=r"query/IMG_2041.jpg: the file name does not begin with"):
        load("market", tmp_path)


def test_empty_split(tmp_path: Path) -> None:
    root = trees.market(tmp_path / "market")
    for path in (root / "query").iterdir():
        path.unlink()
    trees.picture(root / "query" / "-1_c1_1.jpg")
    with pytest.raises(DatasetError, match="market/query: no images but 1 junk images"):
        load("market", tmp_path)


def test_counts_warn_or_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trees.market(tmp_path / "market")
    with caplog.at_level(logging.WARNING):
        splits = load("market", tmp_path)
    assert len(splits.warnings) == 3 == len(caplog.records)
    assert (
        "found 4 identities, 16 images, 2 cameras; published: 751 identities, 12,936 images"
        in splits.warnings[0]
    )
    with pytest.raises(DatasetError, match=r"DATASETS.STRICT"):
        load("market", tmp_path, strict=True)


def test_counts_name_the_known_bad_archive(tmp_path: Path) -> None:
    trees.msmt(tmp_path / "MSMT17_V1")
    gallery = [line for line in load("msmt", tmp_path).warnings if line.startswith("msmt/gallery")]
    assert "60,910 test images instead of 82,161" in gallery[0]
    partial = load("msmt", tmp_path, train_val=False).warnings
    assert not any(line.startswith("msmt/train") for line in partial)


def test_right_counts_are_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.duke(tmp_path / "duke")
    right = {"train": (2, 4, 2), "query": (1, 1, 1), "gallery": (2, 2, 1)}
    monkeypatch.setitem(counts.COUNTS, "duke", right)
    assert load("duke", tmp_path, strict=True).warnings == ()


@pytest.mark.parametrize("build", [trees.market, trees.duke, trees.cuhk_np])
def test_listing_does_not_depend_on_the_order_on_disk(
    tmp_path: Path, build: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    build(tmp_path / "own")
    straight = load("folder", tmp_path / "own")
    scandir = os.scandir

    class Reversed:
        def __init__(self, path: str) -> None:
            self.entries = list(scandir(path))[::-1]

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("crossreid.datasets.listing.os.scandir", Reversed)
    again = load("folder", tmp_path / "own")
    assert again.train.paths == straight.train.paths
    assert again.train.pids.tolist() == straight.train.pids.tolist()


def test_synthetic(tmp_path: Path) -> None:
    sizes = {"identities": 2, "test_identities": 1, "cameras": 2, "height": 32, "width": 16, "workers": 1}
    splits = load("synthetic:winter", tmp_path, synthetic=sizes)
    assert splits.name == "synthetic:winter"
    assert splits.train.num_identities == 2
    assert splits.train.num_cameras == 2
    assert load("synthetic:winter", tmp_path, synthetic=sizes).train.paths == splits.train.paths
    with pytest.raises(DatasetError, match="spring"):
        load("synthetic:spring", tmp_path, synthetic=sizes)
