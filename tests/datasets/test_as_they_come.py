"""Copies as users have them: other formats, sub-folders, letter cases, archives, encodings, layouts."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossreid.datasets import DatasetError, counts, load
from crossreid.datasets.decode import decode
from crossreid.datasets.listing import extensions, list_images, natural, read_text
from tests.datasets import trees

KINDS = {
    "jfif": "JPEG",
    "jpe": "JPEG",
    "gif": "GIF",
    "pgm": "PPM",
    "jp2": "JPEG2000",
    "tga": "TGA",
    "bin": "PNG",
}


@pytest.mark.parametrize("extension", [*KINDS, ""])
def test_every_format_pillow_reads_by_extension_or_content(tmp_path: Path, extension: str) -> None:
    for name in ("0001_c1_0", "0001_c2_0"):
        trees.picture(tmp_path / "train" / f"{name}.png")
    path = tmp_path / "train" / "0002_c1_0.png"
    trees.picture(path)
    image = Image.open(path).convert("L" if extension in ("pgm", "gif") else "RGB")
    path.unlink()
    image.save(
        tmp_path / "train" / f"0002_c1_0{'.' * bool(extension)}{extension}", KINDS.get(extension, "PNG")
    )
    splits = load(f"folder:{tmp_path}")
    assert splits.train.pids.tolist() == [0, 0, 1]
    assert splits.warnings == ()
    assert decode(splits.train.paths[2], 64, 32).std() > 20


def test_files_that_are_no_images_are_counted_and_named(tmp_path: Path) -> None:
    root = trees.market(tmp_path / "market")
    for name in ("photo.heic", "notes.txt", "b.heic"):
        (root / "query" / name).write_bytes(b"no image that Pillow knows")
    lines = [line for line in load("market", tmp_path).warnings if "left out" in line]
    assert lines == [
        "market/query: files left out because Pillow cannot read them as images: 3 (.heic, .txt), first b.heic"
    ]
    assert {".jpg", ".png", ".gif", ".webp", ".tiff"} < extensions()
    assert not {".pdf", ".mpg", ".h5", ".eps"} & extensions()


@pytest.mark.parametrize(
    "name",
    [
        "{pid:04d}/{pid:04d}_c{cam}_0.jpg",
        "{pid}/c{cam}_0.jpg",
        "{pid}/track_3/cam{cam}/0.jpg",
        "{pid}/t/x_c{cam}.jpg",
    ],
)
def test_identities_and_tracks_as_folders(tmp_path: Path, name: str) -> None:
    for part in ("train", "query", "gallery"):
        for pid in (1, 2):
            for cam in (1, 12):
                trees.picture(tmp_path / part / name.format(pid=pid, cam=cam))
    splits = load(f"folder:{tmp_path}")
    assert sorted(zip(splits.query.pids.tolist(), splits.query.cams.tolist())) == [
        (1, 1),
        (1, 12),
        (2, 1),
        (2, 12),
    ]
    assert splits.warnings == ()


def test_some_images_in_sub_folders_are_read_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = trees.market(tmp_path / "own")
    trees.pictures(root / "bounding_box_train" / "extra", ["0020_c1_0.jpg", "0021_c1_0.jpg"])
    with caplog.at_level(logging.WARNING):
        splits = load(f"folder:{root}")
    assert len(splits.train) == 19  # the one of identity -1, too
    assert "folder/train: 2 of 19 images lie in sub-folders (extra) and are read, too" in caplog.text


def test_tracks_of_mars_and_letter_cases(tmp_path: Path) -> None:
    trees.pictures(tmp_path / "Train", ["0001C1T0001F001.jpg", "0001_C2_0.JPG"])
    trees.pictures(tmp_path / "QUERY", ["0003_c1.jpg"])
    trees.pictures(tmp_path / "Test", ["0003_c2.jpg"])
    splits = load(f"folder:{tmp_path}")
    assert splits.train.cams.tolist() == [1, 2]
    assert splits.gallery.pids.tolist() == [3]


def test_inner_folders_of_published_datasets_in_any_case(tmp_path: Path) -> None:
    root = trees.market(tmp_path / "MARKET1501")
    (root / "bounding_box_train").rename(root / "Bounding_Box_Train")
    (root / "query").rename(root / "Query")
    assert len(load("market", tmp_path).train) == 16
    root = trees.msmt(tmp_path / "MSMT17_V1")
    (root / "train").rename(root / "Train")
    (root / "list_query.txt").rename(root / "List_Query.txt")
    assert load("msmt", tmp_path).query.cams.tolist() == [5]


@pytest.mark.parametrize("inner", ["Market-1501-v15.09.15", "unpacked"])
@pytest.mark.parametrize("outer", ["Market-1501-v15.09.15", "market"])
def test_archives_in_a_folder_of_their_own(tmp_path: Path, outer: str, inner: str) -> None:
    trees.market(tmp_path / outer / inner)
    trees.msmt(tmp_path / "MSMT17_V1" / "MSMT17_V1")
    trees.cuhk_np(tmp_path / "cuhk03-np" / "cuhk03-np" / "detected")
    assert load("market", tmp_path).root == str(tmp_path / outer / inner)
    assert len(load("msmt", tmp_path).train) == 4
    with pytest.raises(DatasetError, match="duke: not found"):
        load("duke", tmp_path)
    with pytest.raises(DatasetError, match="cuhk: not found"):
        load("cuhk", tmp_path, subset="labeled")
    trees.cuhk_np(tmp_path / "cuhk03-np" / "detected" / "detected")
    assert len(load("cuhk", tmp_path, subset="detected").train) == 4


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_lists_and_tables_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    root = trees.msmt(tmp_path / "MSMT17_V1")
    for path in root.glob("list_*.txt"):
        text = "# café\n" + path.read_text().replace("\n", "\r\n")
        path.write_bytes(text.encode(encoding))
    assert load("msmt", tmp_path).train.cams.tolist() == [1, 9, 14, 15]
    trees.picture(tmp_path / "é.jpg")
    (tmp_path / "own.csv").write_bytes("path,camid\r\né.jpg,4\r\n".encode(encoding))
    assert load(f"csv:{tmp_path / 'own.csv'}").train.cams.tolist() == [4]


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_bytes(b"\x89PNG\r\n" + b"x" * 100 + bytes(9))
    with pytest.raises(
        DatasetError, match=r"own.csv: is not text in UTF-8, UTF-16 or Latin-1; save it as UTF-8"
    ):
        read_text(tmp_path / "own.csv")


def test_msmt_with_all_four_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.msmt(tmp_path / "MSMT17_V1")
    splits = load("msmt", tmp_path, train_all=True)
    assert len(splits.train) == 7
    assert splits.train.num_identities == 4  # 0 and 1, and 0 and 3 of the test part, who are other people
    of_path = {
        Path(p).name[:4] + Path(p).parts[-3]: pid for p, pid in zip(splits.train.paths, splits.train.pids)
    }
    assert of_path == {"0000train": 0, "0001train": 1, "0000test": 2, "0003test": 3}
    assert len(splits.query) == 1
    assert len(splits.gallery) == 2
    assert counts.COUNTS["msmt/all"]["train"] == (1041 + 3060, 32_621 + 11_659 + 82_161, 15)
    assert any("published: 4,101 identities, 126,441 images" in line for line in splits.warnings)
    trees.msmt_market_style(tmp_path / "copy")
    with pytest.raises(DatasetError, match="TRAIN_ALL needs MSMT17 with its lists"):
        load("msmt", tmp_path / "copy", train_all=True)


def torchreid(root: Path) -> tuple[Path, dict[str, list[list[object]]]]:
    """CUHK03 as torchreid unpacks it; the paths in the file are those of another machine."""
    rows: dict[str, list[list[object]]] = {part: [] for part in ("train", "query", "gallery")}
    for pid in range(4):
        for view in (1, 2):
            name = f"1_{pid + 1:03d}_{view}_01.png"
            trees.picture(root / "images_labeled" / name, pid)
            part = "train" if pid < 2 else ("query" if view == 1 else "gallery")
            rows[part].append([f"C:\\old\\images_labeled\\{name}", pid, view - 1])
    return root, rows


@pytest.mark.parametrize(
    ("name", "file"), [("cuhk", "splits_new_labeled.json"), ("cuhk03", "splits_classic_labeled.json")]
)
def test_cuhk03_of_torchreid(tmp_path: Path, name: str, file: str) -> None:
    root, rows = torchreid(tmp_path / "cuhk03")
    (root / file).write_text(json.dumps([{**rows, "num_train_pids": 2}]))
    splits = load(name, tmp_path)
    assert splits.train.pids.tolist() == [0, 0, 1, 1]
    assert splits.query.cams.tolist() == [0, 0]
    assert splits.gallery.pids.tolist() == [2, 3]
    (root / "images_labeled" / "1_004_2_01.png").unlink()
    with pytest.raises(
        DatasetError, match=rf"{file}: 1 of 8 listed images are missing, first .*1_004_2_01.png"
    ):
        load(name, tmp_path)
    (root / file).write_text(json.dumps([{"train": [["a.png", 1]]}]))
    with pytest.raises(DatasetError, match=r"needs train, query and gallery with rows \[path, pid, camera\]"):
        load(name, tmp_path)


def test_cuhk03_with_the_authors_matlab_configuration(tmp_path: Path) -> None:
    from scipy.io import savemat

    root, rows = torchreid(tmp_path / "cuhk03")
    files = sorted(path.name for path in (root / "images_labeled").iterdir())
    cells = np.empty((len(files), 1), object)
    cells[:, 0] = files
    content: dict[str, object] = {"filelist": cells, "labels": np.array([[int(f[2:5])] for f in files])}
    for part, listed in rows.items():
        place = [1 + files.index(str(row[0]).rpartition("\\")[2]) for row in listed]
        content[f"{part}_idx"] = np.array(place)[:, None]
    mat = root / "cuhk03_new_protocol_config_labeled.mat"
    savemat(mat, content)
    splits = load("cuhk", tmp_path)
    assert splits.train.pids.tolist() == [0, 0, 1, 1]
    assert (splits.query.pids.tolist(), splits.query.cams.tolist()) == ([3, 4], [1, 1])
    assert splits.gallery.cams.tolist() == [2, 2]
    mat.write_bytes(mat.read_bytes()[:300])
    with pytest.raises(
        DatasetError, match=r"config_labeled.mat: cannot be read as CUHK03's new protocol with filelist"
    ):
        load("cuhk", tmp_path)


def test_cuhk03_in_matlabs_hdf5_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "cuhk03" / "cuhk03_release").mkdir(parents=True)
    (tmp_path / "cuhk03" / "cuhk03_release" / "cuhk-03.mat").write_bytes(b"MATLAB 7.3")
    for name in ("cuhk", "cuhk03"):
        with pytest.raises(
            DatasetError, match=r"cuhk-03.mat holds the images in MATLAB's HDF5 format.*: let torchreid"
        ):
            load(name, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("market/../../x", "../market", "a..b:x", ".:x", "1.2:x", "a.b\0:x", "os.path:/", ":", "msmt;rm"),
        *(
            "folder:/dev/null",
            "csv:/dev/zero",
            "folder:a\0b",
            "csv:\udcff",
            "folder:" + "x" * 5000,
            "cameras:f",
        ),
        *("folder:f", "csv:empty", "folder:empty", "cameras:empty", "csv:loop.csv", "folder:loop.csv"),
    ],
)
def test_names_that_lead_nowhere_are_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "f").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    with pytest.raises(DatasetError) as caught:
        load(name, tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """The content with a bit flipped, cut off, or with something put in."""
    place, kind = int(random.integers(len(content))), random.integers(4)
    odd = [b"\0", b"\n", b",", b'"', b"[", b"{", b"null", b"NaN", b"-1", b"\xff\xfe", b"9" * 25, b"/" * 5000]
    if kind == 0:
        return content[:place] + bytes([content[place] ^ 1 << random.integers(8)]) + content[place + 1 :]
    if kind == 1:
        return content[:place]
    if kind == 2:
        return content[:place] + odd[random.integers(len(odd))] + content[place:]
    return random.bytes(place)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("msmt", "MSMT17_V1/list_query.txt"),
        ("cuhk03", "cuhk03/splits.json"),
        ("cuhk03", "cuhk03/meta.json"),
        ("csv:own.csv", "own.csv"),
    ],
)
def test_damaged_lists_are_read_or_named_in_one_line(tmp_path: Path, name: str, file: str) -> None:
    trees.msmt(tmp_path / "MSMT17_V1")
    trees.cuhk03(tmp_path / "cuhk03")
    trees.pictures(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    rows = ["a.jpg,1,1,train", "b.jpg,2,1,query", "c.jpg,2,2,gallery"]
    (tmp_path / "own.csv").write_text("\n".join(["path,pid,camid,split", *rows]))
    sound, random = (tmp_path / file).read_bytes(), np.random.default_rng(0)
    told = []
    for _ in range(150):
        (tmp_path / file).write_bytes(damaged(sound, random))
        try:
            load(name, tmp_path)
        except DatasetError as error:
            told.append(str(error))
    assert len(told) > 75
    assert not [line for line in told if "\n" in line or len(line) > 1000]


def test_listing_is_sorted_and_natural_order_counts() -> None:
    names = ["cam10", "cam2", "Cam1", "x", "2", "10"]
    assert sorted(names, key=natural) == ["2", "10", "Cam1", "cam2", "cam10", "x"]


def test_folders_named_like_images_are_folders(tmp_path: Path) -> None:
    trees.picture(tmp_path / "a.jpg" / "b.jpg")
    trees.picture(tmp_path / ".hidden" / "c.jpg")
    assert list_images(tmp_path).images == ("a.jpg/b.jpg",)
