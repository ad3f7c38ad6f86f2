"""Weight files: what is told, what is refused, mean and std, whole files of other projects, conversion between them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from crossreid import configs
from crossreid.engine.commands.convert import main as convert
from crossreid.engine.methods.common import new_backbone
from crossreid.modeling import ModelError, vit
from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.checkpoints import load_file as load
from crossreid.modeling.checkpoints import read
from crossreid.modeling.positions import resize
from crossreid.modeling.vit import ViT
from tests.small_nets import shrink

POSITIONS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


@pytest.fixture
def resnet() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return dict(torchvision.models.resnet18(weights=None).state_dict())


def numbered(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As SpCL and Cluster Contrast keep a ResNet: positions in a Sequential."""
    parts = {k: k.split(".", 1) for k in weights if not k.startswith("fc.")}
    return {f"module.base.{POSITIONS.index(stage)}.{rest}": weights[k] for k, (stage, rest) in parts.items()}


def test_what_is_told(resnet: dict[str, torch.Tensor], tmp_path: Path, told: Callable[[], str]) -> None:
    inner = numbered(resnet)
    inner.pop("module.base.4.0.bn1.bias")
    extra = {"module.feat_bn.weight": torch.ones(3), "module.classifier.weight": torch.ones(3, 3)}
    torch.save({"state_dict": {**inner, **extra}, "best_mAP": np.float64(0.3)}, tmp_path / "spcl.pth.tar")
    backbone = build_backbone("resnet18", pretrained=str(tmp_path / "spcl.pth.tar"))
    assert torch.equal(backbone.layer4[1].conv2.weight, resnet["layer4.1.conv2.weight"])
    line = told().strip()
    assert line == (
        f"MODEL.PRETRAINED {tmp_path}/spcl.pth.tar: loaded 99 of 100 tensors; not in the file: layer1.0.bn1.bias; "
        "left over: module.classifier.weight, module.feat_bn.weight"
    )


@pytest.mark.parametrize(
    "prefix", ["", "module.", "backbone.", "module.encoder_q.", "model.backbone.", "base."]
)
@pytest.mark.parametrize("container", ["", "state_dict", "model", "teacher"])
def test_every_prefix_in_every_container(
    prefix: str, container: str, resnet: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    weights = {f"{prefix}{k}": v for k, v in resnet.items()}
    torch.save(
        {container: weights, "args": argparse.Namespace(lr=1)} if container else weights, tmp_path / "w.pth"
    )
    found = read(tmp_path / "w.pth")
    assert {k for k in resnet if not k.startswith("fc.")} == set(found)
    assert torch.equal(found["layer3.0.conv1.weight"], resnet["layer3.0.conv1.weight"])


def test_clip_beside_a_text_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    tower = build_backbone("clip_vit_b_16", size=(64, 32)).state_dict()
    text = {f"transformer.resblocks.{k}.mlp.c_fc.weight": torch.ones(3) for k in range(90)}
    save_file({**{f"visual.{k}": v for k, v in tower.items()}, **text}, tmp_path / "clip.safetensors")
    assert set(read(tmp_path / "clip.safetensors")) == set(tower)
    build_backbone("clip_vit_b_16", size=(64, 32), pretrained=str(tmp_path / "clip.safetensors"))


def test_hugging_face_s_clip_joins_queries_keys_and_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every one of the file's tensors has a line in the printed mapping; the joined ones are OpenAI's."""
    shrink(monkeypatch)
    tower = dict(build_backbone("clip_vit_b_16", size=(64, 32)).state_dict())
    theirs, stem = {}, "vision_model.encoder.layers"
    for k in range(4):
        for kind in ("weight", "bias"):
            parts = tower[f"transformer.resblocks.{k}.attn.in_proj_{kind}"].chunk(3)
            theirs |= {f"{stem}.{k}.self_attn.{p}_proj.{kind}": v.clone() for p, v in zip("qkv", parts)}
    save_file(theirs, tmp_path / "clip.safetensors")
    convert([str(tmp_path / "clip.safetensors"), str(tmp_path / "clip.pth"), "--to", "torchvision"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {line[0] for line in lines[:-1]} == set(theirs)
    assert [f"{stem}.3.self_attn.v_proj.bias", "transformer.resblocks.3.attn.in_proj_bias"] in lines
    assert lines[-1][1] == "8"
    found = read(tmp_path / "clip.pth")
    assert all(torch.equal(found[k], tower[k]) for k in found)


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("resnet18", 0.485),
        ("vit_tiny", 0.5),
        ("vit_b_16", 0.485),
        ("solider_swin_tiny", 0.5),
        ("clip_vit_b_16", 0.48145466),
    ],
)
def test_what_a_family_was_trained_with(
    name: str, mean: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Callable[[], str]
) -> None:
    """The warning comes with other values of INPUT alone."""
    shrink(monkeypatch)
    monkeypatch.setitem(vit.SIZES, "vit_b_16", (24, 4, 2, 16))
    stride = "2" if "swin" in name else "1"
    more = ["MODEL.BACKBONE", name, "MODEL.LAST_STRIDE", stride, "INPUT.SIZE", "[64, 32]", "MODEL.PRETRAINED"]
    backbone = new_backbone(configs.load(None, [*more, "none"]))
    assert backbone.normalisation[0][0] == mean
    torch.save(backbone.state_dict(), tmp_path / "w.pth")
    right = [
        "INPUT.MEAN",
        str(list(backbone.normalisation[0])),
        "INPUT.STD",
        str(list(backbone.normalisation[1])),
    ]
    new_backbone(configs.load(None, [*more, str(tmp_path / "w.pth"), *right]))
    assert "other numbers" not in told()
    new_backbone(configs.load(None, [*more, str(tmp_path / "w.pth"), "INPUT.MEAN", "[0.1, 0.1, 0.1]"]))
    assert "was trained with other numbers than INPUT.MEAN [0.1, 0.1, 0.1]" in told()


def test_torchvision_s_vit_has_our_names_and_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same features at its own size, resized positions at another."""
    torch.manual_seed(0)
    theirs = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 64).eval()
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    images = torch.randn(2, 3, 32, 32)
    ours = ViT(size=(32, 32), dim=16, depth=2, heads=2, patch=8).eval()
    ours.load_state_dict(ours.fitted(read(tmp_path / "vit.pth")))
    features: list[torch.Tensor] = []
    theirs.heads = nn.Identity()
    with torch.no_grad():
        features = [theirs(images), ours.tokens(images)[:, 0]]
    torch.testing.assert_close(features[0], features[1])
    tall = ViT(size=(64, 32), dim=16, depth=2, heads=2, patch=8)
    fitted = tall.fitted(read(tmp_path / "vit.pth"))["pos_embed"]
    torch.testing.assert_close(fitted, resize(theirs.encoder.pos_embedding.detach(), (8, 4), ratio=1))


def test_part_tokens_are_dropped() -> None:
    """PASS: positions of the patches alone."""
    vit = ViT(size=(32, 16), dim=8, depth=1, heads=2, patch=4)
    weights = {**vit.state_dict(), "pos_embed": torch.randn(1, 32, 8), "part_token1": torch.ones(1, 1, 8)}
    fitted = vit.fitted(weights)["pos_embed"]
    assert torch.equal(fitted[:, 1:], weights["pos_embed"])
    assert not fitted[:, 0].any()


def test_a_broken_weight_is_the_file_s(resnet: dict[str, torch.Tensor], tmp_path: Path) -> None:
    resnet["layer2.0.conv1.weight"][0, 0] = float("nan")
    torch.save({"state_dict": {f"module.{k}": v for k, v in resnet.items()}}, tmp_path / "nan.pth")
    with pytest.raises(
        ModelError, match=r"nan.pth: 1 of the file's own weights hold NaN or infinity, first module.layer2"
    ):
        build_backbone("resnet18", pretrained=str(tmp_path / "nan.pth"))


class Evil:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_code_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {}, "args": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match="holds objects other than tensors"):
        load(tmp_path / "evil.pth")
    assert "run" not in capsys.readouterr().out
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        load(tmp_path / "bad.safetensors")


def test_other_mean_and_std_are_told(
    resnet: dict[str, torch.Tensor], tmp_path: Path, told: Callable[[], str]
) -> None:
    """fast-reid's file tells them in 0..255, LUPerson's by its name; the wrong ones are the quietest of errors."""
    grey = {"pixel_mean": torch.full((1, 3, 1, 1), 127.5), "pixel_std": torch.full((1, 3, 1, 1), 63.75)}
    torch.save({"model": {**{f"backbone.{k}": v for k, v in resnet.items()}, **grey}}, tmp_path / "fast.pth")
    torch.save({f"module.encoder_q.{k}": v for k, v in resnet.items()}, tmp_path / "lup_moco_r18.pth")
    more = ["MODEL.BACKBONE", "resnet18", "MODEL.PRETRAINED"]
    new_backbone(configs.load(None, [*more, str(tmp_path / "fast.pth")]))
    assert "set INPUT.MEAN [0.5, 0.5, 0.5] INPUT.STD [0.25, 0.25, 0.25]" in told()
    new_backbone(configs.load(None, [*more, str(tmp_path / "lup_moco_r18.pth")]))
    wanted = ["INPUT.MEAN", "[0.3525, 0.3106, 0.314]", "INPUT.STD", "[0.2505, 0.2522, 0.2503]"]
    assert f"set {' '.join(wanted)}" in told()
    before = told()
    new_backbone(configs.load(None, [*more, str(tmp_path / "lup_moco_r18.pth"), *wanted]))
    assert "was trained with other numbers" not in told().removeprefix(before)


@pytest.mark.parametrize("layout", ["crossreid", "torchvision", "torchreid", "fastreid", "safetensors"])
def test_conversion(
    layout: str, resnet: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    origin, out = (
        tmp_path / "spcl.pth",
        tmp_path / ("out.safetensors" if layout == "safetensors" else "out.pth"),
    )
    torch.save({"state_dict": {**numbered(resnet), "module.feat_bn.weight": torch.ones(3)}}, origin)
    convert([str(origin), str(out), "--to", layout])
    said = capsys.readouterr().out
    prefix = {"crossreid": "backbone.", "torchreid": "module.", "fastreid": "backbone."}.get(layout, "")
    assert any(
        line.split() == ["module.base.0.weight", f"{prefix}conv1.weight"] for line in said.splitlines()
    )
    assert said.splitlines()[-1].endswith(
        f"120 tensors in {layout}'s layout; left out: module.feat_bn.weight"
    )
    bare = {k: v for k, v in resnet.items() if not k.startswith("fc.")}
    if layout == "safetensors":
        assert load_file(str(out)).keys() == bare.keys()
    if layout == "torchvision":
        theirs = torchvision.models.resnet18(weights=None)
        missing = theirs.load_state_dict(torch.load(out, weights_only=True), strict=False)
        assert missing.missing_keys == ["fc.weight", "fc.bias"]
    again = read(out)
    assert all(torch.equal(again[k], v) for k, v in bare.items())
    with pytest.raises(SystemExit):
        convert([str(origin), str(out), "--to", layout])
    assert "is there already" in capsys.readouterr().err
