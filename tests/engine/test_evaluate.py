"""The evaluation command: a trained checkpoint, a foreign one, saved features, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from crossreid import configs
from crossreid.engine.evaluate import features_folder, load_extractor, main
from crossreid.engine.log import LOGGER
from crossreid.engine.reading import with_absolute_data
from crossreid.modeling.weights import read_checkpoint
from tests.tiny import overrides, train

NAME = "synthetic-winter"


@pytest.fixture(scope="module")
def trained(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scored")
    train(
        "configs/demo.yml", overrides(domains, out, "CAMERA_AWARE.SOURCE_EPOCHS", "0", "SOLVER.EPOCHS", "1")
    )
    return out


def test_a_checkpoint_scores_as_in_training(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(
        [
            "cpu",
            str(trained / "checkpoints/demo/last.pt"),
            "--rerank",
            "TEST.CAMERA_PAIRS",
            "true",
            "TEST.ROC",
            "true",
        ]
    )
    told = capsys.readouterr().out
    assert "re-ranked" in told
    assert "rectangular average precision" in told
    assert "camera 1" in told
    folder = trained / "features" / NAME
    entry = json.loads((folder / "metrics.json").read_text())["demo-last"]
    history = read_checkpoint(trained / "checkpoints/demo/last.pt")["progress"]["history"]
    assert entry["results"]["plain"]["mAP"] == pytest.approx(history[-1]["mAP"], abs=1e-6)
    assert set(entry["results"]) == {"plain", "re-ranked"}
    with np.load(folder / "demo-last-gallery.npz") as file:
        assert set(file.files) == {"vectors", "pids", "cams", "paths", "extraction"}
        assert file["vectors"].shape == (len(file["pids"]), 128)

    main(["cpu", str(folder / "demo-last-query.npz"), "--ap", "trapezoidal"])  # no model, no images
    assert "trapezoidal average precision" in capsys.readouterr().out
    again = json.loads((folder / "metrics.json").read_text())["demo-last"]["results"]["plain"]
    assert again["mAP"] < entry["results"]["plain"]["mAP"]
    assert again["cmc"] == entry["results"]["plain"]["cmc"]


def test_saved_features_are_scored_as_they_were_made(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["cpu", str(trained / "checkpoints/demo/last.pt"), "TEST.AP", "trapezoidal", "TEST.RANKS", "[3]"])
    first = capsys.readouterr().out
    saved = trained / "features" / NAME / "demo-last-query.npz"
    main(["cpu", str(saved)])
    again = capsys.readouterr().out
    assert again.splitlines()[-5:] == first.splitlines()[-5:]
    assert "Rank-3" in again

    saved.with_name("demo-last-config.yml").write_bytes(b"\xff: [")
    with pytest.raises(SystemExit):
        main(["cpu", str(saved)])
    assert "demo-last-config.yml's config is damaged" in capsys.readouterr().err
    saved.with_name("demo-last-config.yml").unlink()
    main(["cpu", str(saved)])  # the defaults
    assert "rectangular" in capsys.readouterr().out


def test_another_dataset_flip_and_features_only(trained: Path) -> None:
    arguments = [
        "cpu",
        str(trained / "checkpoints/demo/last.pt"),
        "--dataset",
        "synthetic:summer",
        "--features-only",
    ]
    main(arguments)
    folder = trained / "features" / "synthetic-summer"
    with np.load(folder / "demo-last-query.npz") as file:
        plain = file["vectors"]
    assert not (folder / "metrics.json").exists()
    main([*arguments, "--flip"])
    with np.load(folder / "demo-last-query.npz") as file:
        assert np.abs(file["vectors"] - plain).max() > 1e-3


def test_features_of_two_targets_never_share_a_folder(tmp_path: Path) -> None:
    def folder(dataset: str, *overrides: str) -> Path:
        found, told = features_folder(tmp_path, configs.load("configs/demo.yml", list(overrides)), dataset)
        found.mkdir(exist_ok=True)
        (found / "dataset.txt").write_text(told)
        return found

    targets = [
        ("synthetic:winter",),
        ("synthetic:winter", "DATASETS.SYNTHETIC.CAMERAS", "3"),
        ("synthetic:winter", "DATASETS.SYNTHETIC.SEED", "3"),
        ("synthetic:winter", "DATASETS.ROOT", "/elsewhere"),
        ("market",),
        ("market", "DATASETS.ROOT", "/elsewhere"),
        ("cuhk",),
        ("cuhk", "DATASETS.SUBSET", "detected"),
        ("folder:/a/reid",),
        ("folder:/b/reid",),
    ]
    found = [folder(*target) for target in targets]
    assert len(set(found)) == len(targets)
    assert found[0].name == "synthetic-winter"
    assert found[4].name == "market"
    assert [folder(*target) for target in targets] == found


def test_checkpoints_of_others(domains: Path, trained: Path, tmp_path: Path) -> None:
    """A bare state_dict with ``module.`` and a classifier of another size, read with --config."""
    weights = read_checkpoint(trained / "checkpoints/demo/last.pt")["model"]
    foreign = {f"module.{k}": v for k, v in weights.items()} | {
        "module.classifier.weight": torch.zeros(99, 256)
    }
    torch.save(foreign, tmp_path / "theirs.pth")
    with pytest.raises(SystemExit):
        main(["cpu", str(tmp_path / "theirs.pth")])
    cfg, extractor = load_extractor(tmp_path / "theirs.pth", "configs/demo.yml", [])
    assert cfg.METHOD == "camera_aware"
    assert torch.equal(extractor.neck.running_mean, weights["neck.running_mean"])


def test_a_config_of_another_version(trained: Path) -> None:
    text = read_checkpoint(trained / "checkpoints/demo/last.pt")["config"] + "OLD_KEY: 3\n"
    cfg, unknown = configs.restore(text, ["TEST.FLIP", "true"])
    assert unknown == ["OLD_KEY"]
    assert cfg.TEST.FLIP
    assert cfg.INPUT.SIZE == [32, 16]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cpu", "nowhere.pt"], ["nowhere.pt"]),
        (["cpu:2", "LAST"], ["one device"]),
        (["cpu", "LAST", "--dataset", "duke"], ["duke", "bounding_box_test"]),
        (["cpu", "LAST", "--ap", "round"], ["TEST.AP", "rectangular"]),
        (["cpu", "LAST", "MODEL.BACKBONE", "resnet18"], ["another architecture", "backbone.conv1.weight"]),
        (["cpu", "nothing-query.npz"], ["nothing-query.npz", "--features-only"]),
        (["cpu", "LAST", "TEST.FLIP"], ["KEY VALUE"]),
    ],
)
def test_bad_input(
    trained: Path, arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    last = str(trained / "checkpoints/demo/last.pt")
    with pytest.raises(SystemExit) as caught:
        main([last if a == "LAST" else a for a in arguments])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    for word in words:
        assert word in error


def test_a_checkpoint_finds_its_data_from_any_folder(
    trained: Path,
    domains: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    saved = read_checkpoint(trained / "checkpoints/demo/last.pt")
    assert str(domains) == configs.restore(saved["config"])[0].DATASETS.ROOT
    saved["config"] = saved["config"].replace(str(domains), str(tmp_path / "gone"))
    torch.save(saved, tmp_path / "moved.pt")
    (tmp_path / "data").symlink_to(domains)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REID_DATASETS", raising=False)
    monkeypatch.setattr(LOGGER, "propagate", True)
    assert load_extractor(tmp_path / "moved.pt", None, [])[0].DATASETS.ROOT == ""  # ./data
    assert f"data in {tmp_path / 'gone'}, which is not here: looking in data" in caplog.text
    caplog.clear()
    given = ["DATASETS.ROOT", str(domains)]
    assert str(domains) == load_extractor(tmp_path / "moved.pt", None, given)[0].DATASETS.ROOT
    assert "not here" not in caplog.text


def test_paths_of_data_are_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").touch()
    given = ["DATASETS.SOURCES", "['csv:mine.csv', 'folder:below']", "DATASETS.TARGET", "synthetic:winter"]
    given += [
        "DATASETS.ROOT",
        "sets",
        "METHOD",
        "m3l",
        "DATASETS.ADAPT",
        "false",
        "DATALOADER.INSTANCES",
        "4",
    ]
    cfg = with_absolute_data(configs.load(None, given))
    assert [f"csv:{tmp_path}/mine.csv", f"folder:{tmp_path}/sets/below"] == cfg.DATASETS.SOURCES
    assert (f"{tmp_path}/sets", "synthetic:winter") == (cfg.DATASETS.ROOT, cfg.DATASETS.TARGET)
