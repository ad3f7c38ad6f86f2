"""Exported networks against Embedder, the snippets, weights under trackers' names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from crossreid import Embedder, configs
from crossreid.engine.commands import main
from crossreid.engine.deploy import export as rooms
from crossreid.engine.deploy.photos import list_photos, load_pixels
from crossreid.engine.methods import load_method
from crossreid.modeling import osnet
from tests.tiny import overrides


def torchreid_state(path: Path) -> dict[str, torch.Tensor]:
    """What a tracker loads of such a file: all but the neck."""
    from safetensors.torch import load_file

    return {k: v for k, v in load_file(str(path)).items() if not k.startswith(("neck.", "classifier."))}


@pytest.mark.parametrize(
    ("colour", "layout", "dtype"),
    [("bgr", "nhwc", "uint8"), ("rgb", "nchw", "float32")],
)
def test_onnx_takes_photos_and_gives_unit_vectors(
    checkpoint: Path,
    cameras: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    colour: str,
    layout: str,
    dtype: str,
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "reid.onnx"
    arguments = [
        "--format",
        "onnx",
        "--out",
        str(out),
        "--colour",
        colour,
        "--layout",
        layout,
        "--input",
        dtype,
    ]
    main(["export", str(checkpoint), *arguments])
    assert "largest difference to torch" in capsys.readouterr().out
    embedder = Embedder(checkpoint, device="cpu")
    paths = [photo.path for photo in list_photos(cameras)][:5]
    expected = embedder(paths)

    def given(pixels: np.ndarray) -> np.ndarray:
        """RGB [B, 3, h, w] in the graph's order."""
        pixels = pixels[:, ::-1] if colour == "bgr" else pixels
        pixels = pixels.transpose(0, 2, 3, 1) if layout == "nhwc" else pixels
        return np.ascontiguousarray(pixels).astype(dtype)

    session = onnxruntime.InferenceSession(str(out))
    small = session.run(["vectors"], {"images": given(load_pixels(paths, embedder.size))})[0]
    assert np.abs(small - expected).max() < 1e-4
    photos = np.stack([np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1) for path in paths])
    whole = session.run(["vectors"], {"images": given(photos)})[
        0
    ]  # resized inside, without Pillow's rounding
    assert (whole * expected).sum(1).min() > 0.9995
    assert np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    meta = json.loads(out.with_suffix(".json").read_text())
    assert meta["digest"] == embedder.digest
    assert meta["size"] == [32, 16]
    assert meta["difference"] <= 1e-4
    assert f"model-color-format={int(colour == 'bgr')}" in (tmp_path / "reid-deepstream.txt").read_text()

    told = subprocess.run(
        [sys.executable, "reid.py", *paths[:2]], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    similarity = float(told.replace("[", " ").replace("]", " ").split()[1])
    assert similarity == pytest.approx(float(whole[0] @ whole[1]), abs=1e-4)


def test_torch_export(checkpoint: Path, cameras: Path, tmp_path: Path) -> None:
    main(["export", str(checkpoint), "--format", "pt2", "--out", str(tmp_path / "reid.pt2")])
    embedder = Embedder(checkpoint, device="cpu")
    paths = [photo.path for photo in list_photos(cameras)][:3]
    module = torch.export.load(tmp_path / "reid.pt2").module()
    found = module(torch.from_numpy(load_pixels(paths, embedder.size))).detach().numpy()
    assert np.abs(found - embedder(paths)).max() < 1e-4


def test_weights_that_trackers_load(domains: Path, tmp_path: Path) -> None:
    """torchreid's and boxmot's resnet50 has torchvision's names; their pooled features are ours before the neck."""
    cfg = configs.load(
        "configs/demo.yml",
        overrides(domains, tmp_path, "MODEL.BACKBONE", "resnet50", "CAMERA_AWARE.SOURCE_EPOCHS", "0"),
    )
    network = load_method(cfg.METHOD).build_extractor(cfg).eval()
    torch.save({"model": network.state_dict(), "config": cfg.dump(), "format": 1}, tmp_path / "r50.pt")
    main(
        [
            "export",
            str(tmp_path / "r50.pt"),
            "--format",
            "safetensors",
            "--out",
            str(tmp_path / "r50.safetensors"),
        ]
    )
    theirs = torchvision.models.resnet50()
    state = torchreid_state(tmp_path / "r50.safetensors")
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert sorted(missing) == ["fc.bias", "fc.weight"]
    assert unexpected == []
    theirs.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        assert torch.allclose(theirs.eval()(images), network.embed(images), atol=1e-5)
    assert json.loads((tmp_path / "r50.json").read_text())["architecture"] == "resnet50"


def test_osnet_under_the_names_of_torchreid(domains: Path, tmp_path: Path) -> None:
    """The tensors' names are those that the recording of torchreid's program has, its classifier apart."""
    own = ("MODEL.BACKBONE", "osnet_x0_25", "MODEL.LAST_STRIDE", "1", "CAMERA_AWARE.SOURCE_EPOCHS", "0")
    cfg = configs.load("configs/demo.yml", overrides(domains, tmp_path, *own))
    network = load_method(cfg.METHOD).build_extractor(cfg).eval()
    torch.save({"model": network.state_dict(), "config": cfg.dump(), "format": 1}, tmp_path / "osnet.pt")
    out = tmp_path / "osnet.safetensors"
    main(["export", str(tmp_path / "osnet.pt"), "--format", "safetensors", "--out", str(out)])
    recorded = {name for name, _ in json.loads(str(np.load("tests/golden/osnet.npz")["s0_names"]))}
    assert set(torchreid_state(out)) == {name for name in recorded if not name.startswith("classifier.")}
    theirs = osnet.build("osnet_x0_25", torchreid_state(out)).eval()
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        assert torch.allclose(theirs(images), network.embed(images), atol=1e-5)


def test_bad_input(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: str) -> str:
        with pytest.raises(SystemExit) as caught:
            main(["export", str(checkpoint), *arguments])
        assert caught.value.code == 2
        return capsys.readouterr().err

    assert "choose onnx or pt2" in refused("--format", "tflite", "--out", "x.tflite")
    assert "ends in .onnx" in refused("--format", "onnx", "--out", str(tmp_path / "x.pt"))
    assert "export it as onnx" in refused("--format", "safetensors", "--out", str(tmp_path / "x.safetensors"))
    monkeypatch.setattr(rooms, "LARGEST_DIFFERENCE", -1.0)
    assert "differ from torch's" in refused("--format", "pt2", "--out", str(tmp_path / "x.pt2"))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("crossreid.engine.extras.installed", lambda name: False)
    assert "onnx, onnxscript, onnxruntime" in refused("--format", "onnx", "--out", str(tmp_path / "x.onnx"))
