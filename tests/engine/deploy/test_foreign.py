"""Whole networks of other projects: the converted checkpoint gives the features of the program that it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from crossreid.engine.commands import main
from crossreid.engine.deploy.foreign import adopt
from crossreid.engine.deploy.network import load_extractor
from crossreid.modeling import ModelError, families
from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.foreign_names import Weights
from crossreid.modeling.pooling import GeM
from crossreid.modeling.strong_net import StrongNet
from crossreid.modeling.vit import ViT
from crossreid.modeling.weights import load_network
from crossreid.modeling.whole_networks import backbone_of
from tests.small_nets import shrink
from tests.tiny import overrides

POSITIONS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
State = dict[str, torch.Tensor]


def lively(network: nn.Module) -> nn.Module:
    """Batch norms with statistics and weights that change what passes through."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network.eval()


def convert(tmp_path: Path, content: Any, *more: str) -> tuple[Any, nn.Module]:
    """Write, convert and load again."""
    torch.save(content, tmp_path / "theirs.pth")
    adopt(tmp_path / "theirs.pth", tmp_path / "ours.pt", list(more))
    cfg, network = load_extractor(tmp_path / "ours.pt", None, [])
    return cfg, network.eval()


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return lively(build_backbone("resnet18", last_stride=1))


def test_fast_reid(resnet: nn.Module, tmp_path: Path) -> None:
    """Backbone, pooling and neck; its mean and std; the feature behind the neck."""
    neck = lively(nn.BatchNorm1d(512))
    state = {f"backbone.{k}": v for k, v in resnet.state_dict().items()}
    state |= {f"heads.bottleneck.0.{k}": v for k, v in neck.state_dict().items()}
    state |= {"heads.weight": torch.ones(7, 512), "pixel_mean": torch.full((3,), 127.5)}
    cfg, network = convert(tmp_path, {"model": {**state, "pixel_std": torch.full((3,), 63.75)}})
    assert (cfg.MODEL.BACKBONE, cfg.MODEL.LAST_STRIDE, cfg.INPUT.STD) == ("resnet18", 1, [0.25] * 3)
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(images), neck(resnet(images).mean((2, 3))))


def test_cluster_contrast(resnet: nn.Module, tmp_path: Path) -> None:
    """Numbers for stages, a learnt GeM."""
    neck, pool = lively(nn.BatchNorm1d(512)), GeM(2.2)
    state = {}
    for name, value in resnet.state_dict().items():
        stage, rest = name.split(".", 1)
        state[f"module.base.{POSITIONS.index(stage)}.{rest}"] = value
    state |= {f"module.feat_bn.{k}": v for k, v in neck.state_dict().items()} | {"module.gap.p": pool.p}
    cfg, network = convert(tmp_path, {"state_dict": state})
    assert cfg.MODEL.POOLING == "gem"
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(images), neck(pool(resnet(images))))


def test_torchreid(tmp_path: Path, domains: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No neck: what the program gives is compared; ``eval.py`` takes the checkpoint."""
    torch.manual_seed(0)
    theirs = lively(build_backbone("osnet_x0_25"))
    state = {f"module.{k}": v for k, v in theirs.state_dict().items()}
    state["module.classifier.weight"] = torch.ones(4, 512)
    cfg, network = convert(tmp_path, {"state_dict": state})
    assert (cfg.MODEL.BACKBONE, cfg.SUPERVISED.FEATURE) == ("osnet_x0_25", "pooled")
    images = torch.randn(2, 3, 256, 128)
    with torch.no_grad():
        torch.testing.assert_close(
            network(images), theirs(images, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        )
    data = overrides(domains, tmp_path, "DATASETS.TARGET", "synthetic:winter")
    keep = [i for i in range(0, len(data), 2) if data[i].startswith(("DATASETS", "OUTPUT", "INPUT.SIZE"))]
    main(["eval", "cpu", str(tmp_path / "ours.pt"), *(word for i in keep for word in data[i : i + 2])])
    assert "mAP" in capsys.readouterr().out


def test_transreid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overlapping patches, jigsaw branches and their necks; the base's last block and norm are not what it uses."""
    shrink(monkeypatch)
    torch.manual_seed(0)
    net = StrongNet(ViT(dim=24, depth=4, heads=2, stride=12), 0, parts=4, feature="pooled")
    lively(net)
    for p in net.parts.parameters():
        nn.init.normal_(p, std=0.1)
    state = {f"base.{k}": v.clone() for k, v in net.backbone.state_dict().items()}
    for part, prefix in (
        (net.backbone.blocks[-1], "b1.0."),
        (net.backbone.norm, "b1.1."),
        (net.parts.block, "b2.0."),
    ):
        state |= {f"{prefix}{k}": v for k, v in part.state_dict().items()}
    state |= {f"b2.1.{k}": v for k, v in net.parts.norm.state_dict().items()}
    for k, neck in enumerate([net.neck, *net.part_necks]):
        state |= {f"bottleneck{f'_{k}' if k else ''}.{n}": v for n, v in neck.state_dict().items()}
    for name in [n for n in state if n.startswith(("base.blocks.3.", "base.norm."))]:
        state[name] = torch.randn_like(state[name])
    state |= {
        "base.sie_embed": torch.ones(6, 1, 24),
        "classifier.weight": torch.ones(5, 24),
        "base.fc.bias": torch.ones(9),
    }
    cfg, network = convert(tmp_path, state)
    assert (cfg.MODEL.BACKBONE, cfg.MODEL.PATCH_STRIDE, cfg.SUPERVISED.PARTS) == ("vit_tiny", 12, 4)
    assert cfg.INPUT.MEAN == [0.5, 0.5, 0.5]
    images = torch.randn(2, 3, 256, 128)
    with torch.no_grad():
        torch.testing.assert_close(network(images), net(images))
    (tmp_path / "ours.pt").unlink()
    done, _ = adopt(tmp_path / "theirs.pth", tmp_path / "ours.pt", ["SUPERVISED.FEATURE", "neck"])
    left = [name for name in done.skipped if not name.startswith(("base.blocks.3.", "base.norm."))]
    assert left == ["base.fc.bias", "base.sie_embed", "classifier.weight"]
    assert done.notes == ["scores will differ without its camera embedding"]
    assert done.names["b1.0.attn.qkv.weight"] == "backbone.blocks.3.attn.qkv.weight"
    cfg, network = load_extractor(tmp_path / "ours.pt", None, [])
    net.feature = "neck"
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), net(images))


@pytest.mark.parametrize("name", ["resnet50_ibn_a", "vit_small", "mobilenet_v2"])
def test_backbones_are_found_by_their_tensors(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name, last_stride=1)
    assert backbone_of(Weights(dict(backbone.state_dict()), {}, [])) == name
    assert name in families.names()


def test_what_is_told_and_refused(
    tmp_path: Path, resnet: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, ours = str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pt")
    torch.save({f"base.{k}": v for k, v in resnet.state_dict().items()}, theirs)
    for command, told in (
        (["eval", "cpu", theirs], f"crossreid convert {theirs} NEW.pt --to crossreid"),
        (["convert", theirs, ours, "--to", "fastreid", "NAME", "x"], "writes no config: leave out NAME"),
        (["convert", theirs, ours, "--to", "crossreid", "MODEL.BACKBONE", "resnet50"], "holds no whole resnet50: "),
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            main(command)
        assert told in capsys.readouterr().err
        assert not Path(ours).exists()
    with pytest.raises(ModelError, match="for all of it run crossreid convert --to crossreid"):
        load_network(StrongNet(resnet, 0), torch.load(theirs), theirs)
    main(["convert", theirs, ours, "--to", "crossreid", "--quiet"])
    assert "a whole checkpoint with MODEL.BACKBONE resnet18 MODEL.LAST_STRIDE 2" in capsys.readouterr().out
    torch.save({"conv1.weight": torch.ones(3)}, tmp_path / "part.pth")
    main(["convert", str(tmp_path / "part.pth"), str(tmp_path / "part.pt"), "--to", "crossreid"])
    assert "for MODEL.PRETRAINED alone" in capsys.readouterr().out
