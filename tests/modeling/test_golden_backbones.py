"""ViT, OSNet, Swin and CLIP against outputs of the programs that published them; other projects' weight files."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from crossreid.modeling import checkpoints, clip, osnet, swin, vit
from crossreid.modeling.jpm import JigsawParts, shuffle
from crossreid.modeling.positions import fit, resize
from tests.golden_arrays import FOLDER, relative, settings
from tests.golden_weights import features

EXPECTED = json.loads((FOLDER / "checkpoints" / "expected.json").read_text())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("case", "build"),
    [("vit", vit.build), ("osnet", osnet.build), ("swin_solider", swin.build), ("clip_visual", clip.build)],
)
def test_features(case: str, build: Callable[..., Any], dtype: torch.dtype) -> None:
    for got, expected in features(build, case, dtype):
        assert got.dtype == dtype
        assert relative(got, expected) < (1e-9 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("s", settings("pos_embed_resize"))
def test_positions(s: dict[str, torch.Tensor]) -> None:
    size = int(s["height"]), int(s["width"])
    resized = resize(s["pos_embed"], size, ratio=int(s["hw_ratio"]))
    assert relative(resized, s["resized"]) < 1e-9
    assert torch.equal(fit(s["pos_embed"], size), resized)  # finds the ratio by itself
    assert torch.equal(fit(resized, size), resized)


@pytest.mark.parametrize("s", settings("jpm_shuffle"))
def test_shuffled_patches(s: dict[str, torch.Tensor]) -> None:
    got = shuffle(s["tokens"], shift=int(s["shift"]), groups=int(s["group"]))
    assert torch.equal(got, s["shuffled"])


def test_jigsaw_parts_are_class_tokens_over_quarters() -> None:
    torch.manual_seed(0)
    net = vit.ViT(size=(32, 16), dim=8, depth=2, heads=2, patch=4).eval()  # 8 x 4 patches
    parts = JigsawParts(net.blocks[-1], net.norm)
    tokens = torch.randn(2, 33, 8)
    got = parts(tokens)
    assert got.shape == (2, 4, 8)
    mixed = shuffle(tokens, shift=5, groups=2)
    second = net.norm(net.blocks[-1](torch.cat([tokens[:, :1], mixed[:, 8:16]], 1)))[:, 0]
    torch.testing.assert_close(got[:, 1], second)


@pytest.mark.parametrize("file", EXPECTED)
def test_other_projects_files(file: str) -> None:
    """Exactly the backbone's tensors, by our names, from where the file has them."""
    expected, path = EXPECTED[file], FOLDER / "checkpoints" / file
    found = checkpoints.read_weights(path)
    assert set(found.tensors) == set(expected["tensors"])
    assert {old: new for new, old in found.names.items()} == expected["mapping"]
    assert set(found.skipped) == set(expected["skipped"])
    for name, (shape, total, square) in expected["tensors"].items():
        value = torch.as_tensor(found.tensors[name]).double()
        assert list(value.shape) == shape, name
        assert [float(value.sum()), float(value.square().sum())] == pytest.approx(
            [total, square], rel=1e-9, abs=1e-9
        )
