"""Targets of which no identity is known, and sources that have none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from crossreid.datasets import DatasetError
from crossreid.engine import data as engine_data
from crossreid.engine.evaluate import main as evaluate
from tests.datasets import trees
from tests.tiny import overrides, train


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Three cameras with 12 images each in tracks, their names say nothing."""
    for camera in ("entrance", "hall", "yard"):
        for image in range(12):
            trees.picture(tmp_path / "own" / camera / f"t{image % 3}" / f"{image:x}.jpg", image, (64, 32))
    return tmp_path / "own"


PHASES = ("MODEL.BACKBONE", "tiny", "CAMERA_AWARE.SOURCE_EPOCHS", "0", "CAMERA_AWARE.INTRA_START", "1")
PHASES += ("CAMERA_AWARE.INTER_START", "2")


def run(own: Path, domains: Path, *more: str) -> str:
    return train(
        "configs/demo.yml",
        overrides(domains, own.parent / "out", "DATASETS.TARGET", f"cameras:{own}", *PHASES, *more),
    )


def test_cameras_without_names_are_adapted_to_and_resumed(
    own: Path, domains: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run(own, domains, "TEST.CRITERIA", "true")
    assert "target: cameras/train, 36 images, identities hidden, 3 cameras" in told
    assert "has no query and gallery with identities: nothing is scored" in told
    assert "not evaluated, it has no query and gallery" in told
    saved = own.parent / "out/checkpoints/demo"
    assert sorted(path.name for path in saved.iterdir()) == ["last.pt"]
    straight = torch.load(saved / "last.pt", weights_only=True)
    assert straight["engine"]["iteration"] == 6
    history = straight["progress"]["history"]
    assert [sorted(set(entry) & {"mAP", "clusters"}) for entry in history] == [
        ["clusters"]
    ] * 2  # criteria need no names
    again = run(own, domains, "SOLVER.EPOCHS", "3", "RESUME", "auto")
    assert "resuming" in again
    assert torch.load(saved / "last.pt", weights_only=True)["engine"]["iteration"] == 9
    with pytest.raises(SystemExit) as stopped:
        evaluate(["cpu", str(saved / "last.pt")])
    assert stopped.value.code == 2
    assert "so that nothing can be scored" in capsys.readouterr().err


def test_the_target_is_checked_before_the_source_is_read(
    own: Path, domains: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = engine_data.read

    def read(cfg, name):  # type: ignore[no-untyped-def]
        seen.append(name)
        return real(cfg, name)

    monkeypatch.setattr(engine_data, "read", read)
    (own / "roof").mkdir()
    with pytest.raises(DatasetError, match=r"roof holds no images; fill the folder or remove it"):
        run(own, domains)
    shutil.rmtree(own / "roof")
    (own / "hall/t1/4.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    with pytest.raises(DatasetError, match=r"4.jpg: does not decode"):
        run(own, domains)
    assert set(seen) == {f"cameras:{own}"}


def test_a_source_needs_identities(own: Path, domains: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"none of 36 images has an identity; as a source .* choose a labelled"
    ):
        run(own, domains, "DATASETS.SOURCES", f"cameras:{own}", "DATASETS.TARGET", "synthetic:winter")


def test_query_and_gallery_alone_are_evaluated_but_not_adapted_to(own: Path, domains: Path) -> None:
    shutil.rmtree(own)
    for part, camera in (("query", 1), ("gallery", 2)):
        for person in range(4):
            trees.picture(own / part / f"{person}_c{camera}.jpg", person)
    target = ("DATASETS.TARGET", f"folder:{own}")
    with pytest.raises(DatasetError, match=r"no training images below .*; add a training part, or use it as"):
        run(own, domains, *target)
    told = run(own, domains, *target, "DATASETS.ADAPT", "False")
    assert "[rectangular AP; 4 of 4 queries have a match]" in told
