"""``crossreid adapt``: eight cameras of fifty photos from a checkpoint and from a YAML, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossreid import Embedder
from crossreid.engine.commands import main
from crossreid.engine.training.adapt import adapt_config
from crossreid.modeling.weights import read_checkpoint
from tests.tiny import overrides, train


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 folders of 50 photos, names that say nothing."""
    folder, rng = tmp_path_factory.mktemp("site") / "halls", np.random.default_rng(0)
    for camera in "abcdefgh":
        (folder / f"hall {camera}").mkdir(parents=True)
        for number in rng.permutation(50):
            pixels = rng.integers(0, 256, (16, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"hall {camera}" / f"{number * 7919 % 1000}.png")
    return folder


def test_from_a_checkpoint(
    domains: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = overrides(domains, tmp_path, "CAMERA_AWARE.SOURCE_EPOCHS", "0", "SOLVER.EPOCHS", "1")
    train("configs/demo.yml", [*given, "DATALOADER.ITERS_PER_EPOCH", "1"])
    first = tmp_path / "checkpoints/demo/last.pt"
    cfg = adapt_config(str(photos), str(first), "cpu", ["DATALOADER.ITERS_PER_EPOCH", "2"])
    assert (cfg.NAME, cfg.SOLVER.EPOCHS, cfg.DATALOADER.ITERS_PER_EPOCH) == ("halls-adapted", 16, 2)
    main(["adapt", str(photos), "--from", str(first), "SOLVER.EPOCHS", "2", "SOLVER.STEPS", "[1]"])
    told = capsys.readouterr().out
    assert "400 images" in told
    assert "8 cameras" in told
    assert "camera_entropy" in told
    assert "before" in told
    adapted = tmp_path / "checkpoints/halls-adapted/last.pt"
    assert not adapted.with_name("best.pt").exists()
    before, after = read_checkpoint(first)["model"], read_checkpoint(adapted)["model"]
    assert not torch.equal(before["backbone.stem.0.weight"], after["backbone.stem.0.weight"])
    assert Embedder(adapted, device="cpu")([next(photos.rglob("*.png"))]).shape == (1, 128)


def test_sizes_follow_the_photos(domains: Path, photos: Path, tmp_path: Path) -> None:
    given = ["DATASETS.ROOT", str(domains), "OUTPUT_DIR", str(tmp_path)]
    cfg = adapt_config(str(photos), "configs/demo.yml", "cpu", given)
    assert f"cameras:{photos}" == cfg.DATASETS.TARGET
    assert cfg.DATALOADER.BATCH_SIZE == 64  # 32 of 400 photos a step
    assert cfg.DATALOADER.ITERS_PER_EPOCH == 20
    assert cfg.CAMERA_AWARE.SOURCE_EPOCHS == 4  # a YAML keeps its schedule
    cfg = adapt_config(str(photos), "configs/demo.yml", "cpu", [*given, "DATALOADER.BATCH_SIZE", "32"])
    assert cfg.DATALOADER.BATCH_SIZE == 32


def test_bad_input(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: object) -> str:
        with pytest.raises(SystemExit) as caught:
            main(["adapt", *map(str, arguments)])
        assert caught.value.code == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        return error

    one = tmp_path / "one"
    (one / "door").mkdir(parents=True)
    assert "holds no images" in refused(one, "--from", "configs/demo.yml")
    for number in range(4):
        Image.new("RGB", (8, 16)).save(one / "door" / f"{number}.png")
    assert "one camera only" in refused(one, "--from", "configs/demo.yml")
    assert "no such folder" in refused(tmp_path / "nowhere", "--from", "configs/demo.yml")
    assert "no checkpoint" in refused(photos, "--from", "nowhere.pt")
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "bare.pt")
    assert "holds no config" in refused(photos, "--from", tmp_path / "bare.pt")
