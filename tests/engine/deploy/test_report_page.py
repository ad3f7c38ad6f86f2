"""Reports of a run, of an evaluation and of cameras without labels: what they hold, and that they hold it inside."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from crossreid import configs
from crossreid.engine.commands import main
from crossreid.engine.deploy.activation import activations
from crossreid.engine.deploy.network import load_extractor
from crossreid.engine.deploy.report_page import Subject, write_report
from crossreid.engine.errors import InputError
from crossreid.engine.evaluation.retrieval import Features
from tests.tiny import overrides, train

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


def read(page: Path) -> str:
    """A page, once it is seen to fetch nothing."""
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*""", text)
    assert "<script" not in text
    return text


def test_of_an_evaluation(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    main(["eval", "cpu", str(checkpoint), "--report", str(page)])
    told, text = capsys.readouterr().out, read(page)
    score = re.search(r"^plain +([\d.]+)", told, re.MULTILINE)
    assert score is not None
    assert f"<b>{score[1]}</b>mAP" in text
    for part in (
        "CMC",
        "ROC",
        "mAP by camera pair",
        "Similarities",
        "Best queries",
        "Median queries",
        "Worst",
    ):
        assert part in text
    for part in (
        "Activation maps",
        "Embedding map by camera",
        "Embedding map by identity",
        "Dataset",
        "PyTorch",
    ):
        assert part in text
    assert "METHOD: camera_aware" in text
    assert text.count('class="query"') > 8
    again = tmp_path / "again.html"
    saved = checkpoint.parents[2] / "features/synthetic-winter/demo-last-query.npz"
    main(["report", str(saved), "--out", str(again)])
    assert f"<b>{score[1]}</b>mAP" in read(again)


def test_of_a_run(domains: Path, tmp_path: Path) -> None:
    given = ["CAMERA_AWARE.SOURCE_EPOCHS", "0", "SOLVER.EPOCHS", "1", "LOG.REPORT", "true"]
    train("configs/demo.yml", overrides(domains, tmp_path, *given))
    text = read(tmp_path / "logs/demo/report.html")
    assert "Losses" in text
    assert "Scores of the target" in text
    main(["report", str(tmp_path / "logs/demo"), "--out", str(tmp_path / "later.html")])
    score = re.compile(r"<b>([\d.]+)</b>mAP")
    assert score.findall(read(tmp_path / "later.html")) == score.findall(text)


def test_without_labels(domains: Path, cameras: Path, tmp_path: Path) -> None:
    given = ["CAMERA_AWARE.SOURCE_EPOCHS", "0", "SOLVER.EPOCHS", "1", "LOG.REPORT", "true"]
    train("configs/demo.yml", overrides(domains, tmp_path, *given, "DATASETS.TARGET", f"cameras:{cameras}"))
    text = read(tmp_path / "logs/demo/report.html")
    assert "No identities are known" in text
    assert 'class="unknown"' in text
    assert 'class="right"' not in text
    assert "mAP" not in text.partition("<pre>")[0]


def test_activations_are_the_energy_of_the_feature_map(checkpoint: Path) -> None:
    _, network = load_extractor(checkpoint, None, [])
    images = torch.randn(2, 3, 32, 16)
    shown = activations(network, images)
    with torch.no_grad():
        energy = network.eval().backbone(images).square().sum(1)
    assert shown.shape == (2, 32, 16)
    assert float(shown.min()) == 0
    assert float(shown.max()) == 1
    small = torch.nn.functional.interpolate(shown[:, None], energy.shape[1:], mode="area")[:, 0]
    for one, other in zip(small, energy):
        assert float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) > 0.8


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source, words in ((tmp_path, "no config.yml"), (tmp_path / "none", "no such run")):
        with pytest.raises(SystemExit) as caught:
            main(["report", str(source), "--out", str(tmp_path / "x.html")])
        assert caught.value.code == 2
        assert words in capsys.readouterr().err


def test_a_photo_that_is_gone_is_named_and_no_page_is_written(tmp_path: Path) -> None:
    paths = [str(tmp_path / "gone-0.png"), str(tmp_path / "gone-1.png")]
    photos = Features(torch.eye(2), torch.tensor([0, 0]), torch.tensor([0, 1]), paths)
    with pytest.raises(InputError, match=r"page\.html cannot be written.*gone-\d\.png"):
        write_report(tmp_path / "page.html", Subject("a run", configs.load(None), [], photos, photos))
    assert list(tmp_path.iterdir()) == []
