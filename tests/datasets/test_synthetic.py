"""Built-in domains: layout, names, determinism, looks measured in colour, safety of the files on disk."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossreid.datasets import DatasetError
from crossreid.datasets.built_in import ensure
from crossreid.datasets.synthetic import DOMAINS, GALLERY, QUERY, TRAIN, Sizes, Studio, make_plan
from crossreid.engine.commands import domains

ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(r"^(-1|\d{4})_c(\d+)s(\d+)_(\d{6})_(\d{2})\.jpg$")
SMALL = {"identities": 6, "test_identities": 6, "seed": 3, "progress": False}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure("winter", tmp_path_factory.mktemp("one"), workers=1, **SMALL)


def labels(folder: Path) -> list[tuple[int, int]]:
    found = []
    for path in sorted(folder.glob("*.jpg")):
        match = NAME.match(path.name)
        assert match, path.name
        found.append((int(match[1]), int(match[2])))
    return found


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_layout_and_names(drawn: Path) -> None:
    assert sorted(path.name for path in drawn.iterdir()) == [GALLERY, TRAIN, "domain.json", QUERY]
    train, query, gallery = (labels(drawn / part) for part in (TRAIN, QUERY, GALLERY))
    assert len({pid for pid, _ in train}) == 6
    assert len({pid for pid, _ in query}) == 6
    assert not {pid for pid, _ in train} & {pid for pid, _ in query + gallery}
    assert {pid for pid, _ in gallery} - {pid for pid, _ in query} == {-1, 0}
    assert len(set(query)) == len(query)  # one query an identity and camera
    with Image.open(next((drawn / QUERY).glob("*.jpg"))) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 128))


def test_every_query_counts(drawn: Path) -> None:
    gallery = labels(drawn / GALLERY)
    for pid, camera in labels(drawn / QUERY):
        assert any(other == pid and place != camera for other, place in gallery)


def test_default_sizes() -> None:
    shots = [shot for job in make_plan("summer", Sizes(200, 100, 6, 0, 128, 64)) for shot in job.shots]
    counts = {part: sum(shot.folder == part for shot in shots) for part in (TRAIN, QUERY, GALLERY)}
    assert 2700 <= counts[TRAIN] <= 3300
    assert 280 <= counts[QUERY] <= 350
    assert 950 <= counts[GALLERY] <= 1180
    assert len({(shot.folder, shot.name) for shot in shots}) == len(shots)
    seen: dict[int, dict[int, int]] = {}
    for shot in shots:
        if shot.folder == TRAIN:
            cameras = seen.setdefault(shot.pid, {})
            cameras[shot.camera] = cameras.get(shot.camera, 0) + 1
    assert len(seen) == 200
    assert {len(cameras) for cameras in seen.values()} == {3, 4, 5}
    assert {count for cameras in seen.values() for count in cameras.values()} == {3, 4, 5}


def test_as_large_as_market() -> None:
    shots = [shot for job in make_plan("night", Sizes(751, 750, 6, 1, 128, 64)) for shot in job.shots]
    assert len({(shot.folder, shot.name) for shot in shots}) == len(shots) > 20_000
    assert max(shot.pid for shot in shots) == 1501
    assert all(NAME.match(shot.name) for shot in shots)


def test_same_bytes_for_any_number_of_workers(drawn: Path, tmp_path: Path) -> None:
    other = ensure("winter", tmp_path, workers=3, **SMALL)
    assert other.name == drawn.name
    assert digest(other) == digest(drawn)
    assert not [path for path in other.parent.iterdir() if path.name.endswith(".partial")]


def test_pictures_do_not_depend_on_the_order() -> None:
    sizes = Sizes(6, 6, 6, 3, 128, 64)
    jobs = make_plan("indoor", sizes)
    one, two = Studio("indoor", sizes), Studio("indoor", sizes)
    first = [data for job in jobs[:2] for _, data in one.take(job)]
    second = [data for job in reversed(jobs[:2]) for _, data in two.take(job)]
    assert sorted(first) == sorted(second)


def test_seed_and_size_change_the_pictures() -> None:
    def first(seed: int, height: int = 128, width: int = 64) -> bytes:
        return Studio("summer", Sizes(4, 4, 6, seed, height, width)).sample(0, 0, 1)[0]

    assert first(0) == first(0) != first(1)
    assert Image.open(io.BytesIO(first(0, 96, 40))).size == (40, 96)


def test_complete_folder_is_reused(drawn: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    assert ensure("winter", drawn.parent.parent, workers=2, **SMALL) == drawn
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == before


def test_foreign_or_damaged_folders_are_refused_and_kept(drawn: Path, tmp_path: Path) -> None:
    folder = tmp_path / "synthetic" / drawn.name
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("keep")
    with pytest.raises(DatasetError, match=r"no readable domain\.json"):
        ensure("winter", tmp_path, **SMALL)
    marker = json.loads((drawn / "domain.json").read_text())
    (folder / "domain.json").write_text(json.dumps({**marker, "seed": 4}))
    with pytest.raises(DatasetError, match="other parameters"):
        ensure("winter", tmp_path, **SMALL)
    (folder / "domain.json").write_text(json.dumps(marker))
    with pytest.raises(DatasetError, match="has 0 images"):
        ensure("winter", tmp_path, **SMALL)
    assert (folder / "mine.txt").read_text() == "keep"


def start(root: Path, call: str) -> subprocess.Popen[str]:
    code = "import logging, sys; logging.basicConfig(level='INFO'); "
    code += f"from crossreid.datasets.built_in import ensure; assert 'torch' not in sys.modules; {call}"
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code, str(root)], cwd=ROOT, stdout=pipe, stderr=pipe, text=True
    )


def test_killed_run_leaves_nothing_half_written(tmp_path: Path) -> None:
    size = "identities=8, test_identities=2, seed=5, workers=2, progress=False"
    process = start(tmp_path, f"ensure('night', sys.argv[1], {size})")
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("synthetic/.*.partial/*/*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL  # it was at work
    assert list(tmp_path.glob("synthetic/.*.partial"))
    assert not list(tmp_path.glob("synthetic/night*"))
    folder = ensure("night", tmp_path, identities=8, test_identities=2, seed=5, workers=1, progress=False)
    assert json.loads((folder / "domain.json").read_text())["counts"][TRAIN] == len(labels(folder / TRAIN))
    assert not list(tmp_path.glob("synthetic/.*.partial"))


def test_two_processes_draw_once(tmp_path: Path) -> None:
    call = "print(ensure('summer', sys.argv[1], identities=2, test_identities=1, cameras=3, workers=1))"
    processes = [start(tmp_path, call) for _ in "ab"]
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len({out for out, _ in results}) == 1
    assert sum("images of summer into" in err for _, err in results) == 1


def histogram(data: bytes) -> np.ndarray:
    """Colours of the middle of a picture, where the person is: [512], sums to 1."""
    pixels = np.asarray(Image.open(io.BytesIO(data)))[24:104, 20:44].reshape(-1, 3) // 32
    counts = np.bincount(pixels @ [64, 8, 1], minlength=512)
    return counts / counts.sum()


def test_one_person_in_one_camera_is_nearer_than_others() -> None:
    for domain in DOMAINS:
        studio = Studio(domain, Sizes(10, 10, 6, 0, 128, 64))
        found = np.array([[histogram(data) for data in studio.sample(person, 0, 2)] for person in range(10)])
        distance = np.abs(found[:, None, 0] - found[None, :, 1]).sum(-1)  # [10, 10]
        same = np.diag(distance).mean()
        other = distance[~np.eye(10, dtype=bool)].mean()
        assert same < 0.8 * other, (domain, same, other)


def test_domains_and_cameras_differ() -> None:
    means, spread = {}, {}
    for domain in DOMAINS:
        studio = Studio(domain, Sizes(8, 8, 6, 0, 128, 64))
        cameras = np.array(
            [
                np.mean(
                    [
                        np.asarray(Image.open(io.BytesIO(studio.sample(person, camera, 1)[0])))
                        for person in range(4)
                    ],
                    axis=(0, 1, 2),
                )
                for camera in range(6)
            ]
        )
        means[domain], spread[domain] = cameras.mean(0), cameras.std(0).mean()
    names = list(DOMAINS)
    for i, one in enumerate(names):
        assert spread[one] > 5, (one, spread[one])
        for two in names[i + 1 :]:
            assert np.abs(means[one] - means[two]).max() > 6, (one, two, means)
    assert means["summer"].mean() > means["winter"].mean() + 20
    assert means["indoor"].mean() > means["night"].mean() + 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identities": 0}, "identities must be a whole number, 1 to 5000, not 0"),
        ({"test_identities": 10_000}, "test_identities must be"),
        ({"cameras": 1}, "cameras must be a whole number, 2 to 32, not 1"),
        ({"seed": -1}, "seed must be"),
        ({"height": 8}, "height must be"),
        ({"width": 64.0}, "width must be a whole number, 16 to 512, not 64.0"),
        ({"workers": 0}, "workers must be"),
    ],
)
def test_bad_values(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        ensure("summer", tmp_path, **change)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_unknown_domain_and_unwritable_root(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no built-in domain 'sumer'; did you mean 'summer'.*indoor"):
        ensure("sumer", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot write built-in domain 'summer'"):
        ensure("summer", tmp_path / "file", **SMALL)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> None:
        domains.main(list(arguments))

    small = (
        "--root",
        str(tmp_path),
        "--identities",
        "2",
        "--test-identities",
        "1",
        "--cameras",
        "3",
        "--workers",
        "1",
    )
    run("summer", *small, "--sheet", str(tmp_path / "sheet.png"), "--persons", "2", "--frames", "1")
    out = capsys.readouterr().out
    assert "bounding_box_train" in out
    assert "images/s" in out
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.height >= 2 * 128
    with pytest.raises(SystemExit) as ended:
        run("sommer", *small)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "did you mean 'summer'" in message
