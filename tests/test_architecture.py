"""The worked example of ARCHITECTURE.md, as printed there: a method, a reader and a backbone from outside the tree."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from crossreid import configs
from crossreid.configs import ConfigError
from crossreid.datasets import DatasetError, load
from crossreid.engine.evaluate import main as evaluate
from crossreid.modeling import ModelError
from crossreid.modeling.backbones import build_backbone
from tests.datasets import trees
from tests.tiny import overrides, train

FILES = re.compile(r"^`mine/([\w.]+)`:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package of the example in a folder of its own, on Python's path, and data for its reader."""
    files = dict(FILES.findall(Path("ARCHITECTURE.md").read_text()))
    assert set(files) == {"softmax.py", "reader.py", "net.py", "softmax.yml"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    for name, text in files.items():
        (tmp_path / "mine" / name).write_text(text)
    for part in ("train", "query", "gallery"):
        for person in range(1, 5):
            for camera in (1, 2):
                trees.picture(tmp_path / "data" / part / f"{person}-{camera}-0.jpg", person)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def arguments(mine: Path, domains: Path) -> list[str]:
    more = ["DATASETS.TARGET", f"mine.reader:{mine / 'data'}", "DATALOADER.ITERS_PER_EPOCH", "1"]
    return overrides(domains, mine / "out", *more)


def test_the_worked_example_trains_two_steps_and_is_evaluated(
    mine: Path, domains: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(mine / "mine" / "softmax.yml")
    train(config, arguments(mine, domains))
    saved = torch.load(mine / "out/checkpoints/mine-softmax/last.pt", weights_only=True)
    assert saved["method"] == "mine.softmax"
    assert saved["engine"]["iteration"] == 2
    assert saved["model"]["backbone.2.0.weight"].shape == (64, 32, 3, 3)
    evaluate(["cpu", str(mine / "out/checkpoints/mine-softmax/last.pt")])
    assert "mine.reader" in capsys.readouterr().out
    assert configs.load(config, arguments(mine, domains)).SOFTMAX.SMOOTHING == 0.2
    with pytest.raises(ConfigError, match=r"SOFTMAX\.SMOOTHING is 2.0, allowed is 0 to 1"):
        configs.load(config, ["SOFTMAX.SMOOTHING", "2"])


def test_what_import_paths_do_not_lead_to_is_named(mine: Path) -> None:
    with pytest.raises(
        DatasetError, match="finds no module yours; add the folder that holds it to PYTHONPATH"
    ):
        load(f"yours.reader:{mine / 'data'}")
    with pytest.raises(DatasetError, match=r"mine\.net: it needs a function load"):
        load(f"mine.net:{mine / 'data'}")
    with pytest.raises(ModelError, match="finds no module yours; add the folder"):
        build_backbone("yours.net")
    with pytest.raises(ModelError, match=r"reader\.py lacks build\(last_stride\)"):
        build_backbone("mine.reader")
    (mine / "mine" / "bare.py").write_text("from torch import nn\ndef build(stride): return nn.Identity()\n")
    with pytest.raises(ModelError, match="lacks out_channels, stride, stage_names"):
        build_backbone("mine.bare")
