"""Bad input ends in one clear line and exit code 2, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossreid import configs
from crossreid.configs import ConfigError
from crossreid.datasets import built_in
from crossreid.engine.training.launch import main
from crossreid.modeling.weights import read_checkpoint
from tests.tiny import overrides, train

Fails = Callable[..., str]
ADAPT = ["CAMERA_AWARE.SOURCE_EPOCHS", "0"]  # straight into the method


@pytest.fixture
def fails(domains: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Run the training command, which must fail as bad input does; returns its error line."""

    def call(*more: str, config: str = "configs/demo.yml", devices: str = "cpu", lines: int = 1) -> str:
        with pytest.raises(SystemExit) as caught:
            main(["--devices", devices, config, *overrides(domains, tmp_path / "out", *ADAPT, *more)])
        assert caught.value.code == 2
        error = "\n".join(
            line for line in capsys.readouterr().err.splitlines() if not line.startswith("drawing ")
        )
        assert error.startswith("error: ")
        assert "Traceback" not in error
        assert lines == 0 or len(error.splitlines()) == lines
        return error

    return call


def market(root: Path, images: dict[str, list[str]]) -> None:
    """A Market-style folder with random images of these names."""
    for folder, names in images.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i, name in enumerate(names):
            pixels = np.random.default_rng(i).integers(0, 255, (64, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / name)


TRAIN = [f"{p:04d}_c{c}s1_{c:06d}_0{i}.jpg" for p in range(1, 5) for c in (1, 2) for i in range(3)]
GOOD = {"bounding_box_train": TRAIN, "query": TRAIN[:1], "bounding_box_test": TRAIN[1:]}


def own(tmp_path: Path, images: dict[str, list[str]] = GOOD) -> list[str]:
    """Overrides for a data set of one's own as source and target."""
    market(tmp_path / "data" / "market1501", images)
    return [
        "DATASETS.ROOT",
        str(tmp_path / "data"),
        "DATASETS.SOURCES",
        "[market]",
        "DATASETS.TARGET",
        "market",
    ]


def test_command_line(tmp_path: Path) -> None:
    """The real command, once: exit code, one line on stderr, nothing written."""
    command = [
        sys.executable,
        "train.py",
        "--devices",
        "cpu",
        "configs/demo.yml",
        "OUTPUT_DIR",
        str(tmp_path / "o"),
    ]
    done = subprocess.run([*command, "SOLVER.EPOCS", "3"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr == "error: unknown key SOLVER.EPOCS in the command line; did you mean SOLVER.EPOCHS?\n"
    assert not (tmp_path / "o").exists()


def test_config(fails: Fails) -> None:
    assert "configs/dmo.yml; did you mean configs/demo.yml?" in fails(config="configs/dmo.yml")
    assert "SOLVER.LR" in fails("SOLVER.LR", "quick")


def test_devices(fails: Fails) -> None:
    if torch.cuda.device_count() == 0:
        assert "no GPU 0, 1: this machine has no GPU" in fails(devices="0,1")
    assert "no GPU 97" in fails(devices="97")
    assert "'gpu'" in fails(devices="gpu")
    assert "'cpu:0'" in fails(devices="cpu:0")
    assert "'cpu:'" in fails(devices="cpu:")


def test_batch(fails: Fails) -> None:
    assert "is odd" in fails("DATALOADER.BATCH_SIZE", "15")
    assert "BATCH_SIZE 4 cannot be divided over 2 domains and 4 processes" in fails(
        "DATALOADER.BATCH_SIZE", "4", devices="cpu:4"
    )


def test_missing_dataset_lists_paths_and_tree(fails: Fails, tmp_path: Path) -> None:
    error = fails("DATASETS.ROOT", str(tmp_path), "DATASETS.SOURCES", "[duke]", lines=0)
    assert str(tmp_path / "DukeMTMC-reID") in error
    assert "bounding_box_train" in error


def test_empty_split(fails: Fails, tmp_path: Path) -> None:
    error = fails(*own(tmp_path, {**GOOD, "query": []}))
    assert "query" in error


def test_file_name_that_does_not_parse(fails: Fails, tmp_path: Path) -> None:
    assert "holiday.jpg" in fails(*own(tmp_path, {**GOOD, "bounding_box_train": [*TRAIN, "holiday.jpg"]}))


def test_corrupt_image_is_named(fails: Fails, tmp_path: Path) -> None:
    arguments = own(tmp_path)
    file = tmp_path / "data" / "market1501" / "bounding_box_train" / TRAIN[3]
    file.write_bytes(file.read_bytes()[:100])
    assert str(file) in fails(*arguments)


def test_output_that_cannot_be_written(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "OUTPUT_DIR" in fails("OUTPUT_DIR", str(tmp_path / "file"))
    (tmp_path / "logs" / "demo" / "train.log").mkdir(parents=True)
    assert "OUTPUT_DIR" in fails("OUTPUT_DIR", str(tmp_path))


@pytest.fixture(scope="module")
def trained(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    train("configs/demo.yml", overrides(domains, out, "SOLVER.EPOCHS", "1", *ADAPT))
    return out / "checkpoints" / "demo" / "last.pt"


def test_missing_checkpoint(fails: Fails) -> None:
    assert "nowhere.pt" in fails("RESUME", "nowhere.pt")
    assert "nowhere.pt" in fails("MODEL.WEIGHTS", "nowhere.pt")


def test_checkpoint_of_another_architecture(fails: Fails, trained: Path) -> None:
    error = fails("MODEL.BACKBONE", "resnet18", "MODEL.WEIGHTS", str(trained))
    assert "another architecture" in error
    assert "backbone.conv1.weight (missing in the file, 64x3x7x7 here)" in error


def test_checkpoint_of_another_class_count(
    fails: Fails, trained: Path, domains: Path, tmp_path: Path
) -> None:
    more = ["DATASETS.SYNTHETIC.IDENTITIES", "10", *ADAPT]
    error = fails("RESUME", str(trained), *more)
    assert "source (synthetic:summer/train) holds other images than the run" in error
    told = train("configs/demo.yml", overrides(domains, tmp_path / "o", "MODEL.WEIGHTS", str(trained), *more))
    assert "skipped classifier.weight" in told


class Hostile:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.file}",)


def test_truncated_and_hostile_checkpoints(fails: Fails, trained: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.pt"
    short.write_bytes(trained.read_bytes()[:2000])
    assert "short.pt" in fails("RESUME", str(short))
    hostile, touched = tmp_path / "hostile.pt", tmp_path / "touched"
    torch.save({"model": Hostile(touched)}, hostile)
    assert "objects other than tensors" in fails("MODEL.WEIGHTS", str(hostile))
    assert not touched.exists()


def test_resume_from_other_steps_an_epoch(fails: Fails, trained: Path) -> None:
    more = ["DATALOADER.ITERS_PER_EPOCH", "5", *ADAPT]
    assert "DATALOADER.ITERS_PER_EPOCH was 3, is 5" in fails("RESUME", str(trained), *more)


def test_one_camera_is_said(domains: Path, tmp_path: Path) -> None:
    names = [f"{p:04d}_c1s1_000000_0{i}.jpg" for p in range(1, 5) for i in range(6)]
    market(
        tmp_path / "one" / "mine",
        {"bounding_box_train": names, "query": names[:4], "bounding_box_test": names[4:]},
    )
    arguments = overrides(domains, tmp_path, "DATASETS.TARGET", f"folder:{tmp_path / 'one' / 'mine'}")
    arguments += [*ADAPT, "CAMERA_AWARE.INTER_START", "1", "SOLVER.EPOCHS", "1"]
    told = train("configs/demo.yml", arguments)
    assert "one camera: the inter-camera loss is impossible" in told
    assert "inter " not in told.split("impossible")[1]
    assert "0 of 4 queries have a match" in told


def test_nan_stops_with_the_batch_named(fails: Fails, domains: Path, tmp_path: Path) -> None:
    wild = ["SOLVER.OPTIMIZER", "sgd", "SOLVER.LR", "1000", "SOLVER.NEW_LR", "1000", "SOLVER.EPOCHS", "3"]
    error = fails(
        *wild, "DATALOADER.ITERS_PER_EPOCH", "10", "CAMERA_AWARE.SOURCE_EPOCHS", "1", "LOG.PERIOD", "2"
    )
    assert "not finite at step" in error
    assert "source 000" in error
    last = tmp_path / "out" / "checkpoints" / "demo" / "last.pt"
    if last.exists():
        assert all(torch.isfinite(v).all() for v in read_checkpoint(last)["model"].values())


@pytest.mark.parametrize("key", ["MODEL.WEIGHTS", "MODEL.PRETRAINED"])
def test_missing_weights_are_told_before_data_are_read(
    key: str, fails: Fails, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "crossreid.engine.training.trainer.build_data", lambda *_: pytest.fail("data are read")
    )
    assert f"{key}: no checkpoint {tmp_path}/gone.pt" in fails(key, f"{tmp_path}/gone.pt")


def test_a_missing_source_is_told_before_a_built_in_one_is_drawn(
    fails: Fails, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def build(*_: object) -> None:
        pytest.fail("a domain is built")

    monkeypatch.setattr("crossreid.engine.data.build_domain", build)
    told = fails("DATASETS.SOURCES", f"[synthetic:summer, 'folder:{tmp_path}/gone']")
    assert f"{tmp_path}/gone" in told


def test_an_unknown_backbone_is_told_before_data_are_read(
    fails: Fails, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "crossreid.engine.training.trainer.build_data", lambda *_: pytest.fail("data are read")
    )
    assert "did you mean tiny?" in fails("MODEL.BACKBONE", "Tiny")
    assert not (tmp_path / "out").exists()


def test_unknown_datasets_are_told_before_a_folder_is_made(fails: Fails, tmp_path: Path) -> None:
    assert "did you mean 'summer'?" in fails("DATASETS.SOURCES", "[synthetic:sumer]")
    assert "unknown dataset 'marke'" in fails("DATASETS.TARGET", "marke")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(built_in.LIMITS))
def test_the_config_takes_no_built_in_domain_that_cannot_be_drawn(name: str) -> None:
    low, high = built_in.LIMITS[name]
    key = f"DATASETS.SYNTHETIC.{'SIZE' if name in ('height', 'width') else name.upper()}"
    for value in (low - 1, high + 1):
        size = {"height": f"[{value}, 64]", "width": f"[128, {value}]"}.get(name, str(value))
        with pytest.raises(ConfigError, match=key):
            configs.load(None, [key, size])
