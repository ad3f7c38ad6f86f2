"""Recomputed stages: the same gradients and the same buffers, less memory kept."""

from __future__ import annotations

import copy
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from crossreid.modeling import ModelError
from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.recompute import recompute_stages
from tests.small_nets import shrink


def step(backbone: nn.Module, images: torch.Tensor, amp: bool) -> int:
    """Forward and backward; returns the bytes kept between the two."""
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), torch.autocast("cpu", enabled=amp):
        loss = backbone(images).float().square().mean()
    loss.backward()
    return sum(kept.values())


@pytest.mark.parametrize(
    ("name", "amp"),
    [("tiny", False), ("tiny", True), ("resnet18", False), ("resnet50_ibn_a", False), ("osnet_x0_25", False)],
)
def test_same_gradients_and_buffers(name: str, amp: bool) -> None:
    torch.manual_seed(0)
    plain = build_backbone(name)
    lean = copy.deepcopy(plain)
    recompute_stages(lean, 4)
    assert list(lean.state_dict()) == list(plain.state_dict())
    for _ in range(2):  # the second time from moved statistics
        images = torch.randn(4, 3, 64, 32)
        memory = step(plain, images, amp), step(lean, images, amp)
    assert memory[1] < 0.7 * memory[0]
    for (key, a), b in zip(plain.named_parameters(), lean.parameters()):
        assert torch.equal(a.grad, b.grad), key
    for (key, a), b in zip(plain.named_buffers(), lean.buffers()):
        assert torch.equal(a, b), key
    counters = [b for key, b in lean.named_buffers() if key.endswith("num_batches_tracked")]
    assert {int(counter) for counter in counters} == {2}


@pytest.mark.parametrize(
    "name", ["vit_tiny", "clip_vit_b_16", "solider_swin_tiny", "swin_t", "timm:test_vit"]
)
def test_transformers_drop_the_same_paths_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    shrink(monkeypatch)
    torch.manual_seed(0)
    stride = 2 if "swin" in name else 1
    plain = build_backbone(name, size=(64, 32), drop_path=0.5, last_stride=stride)
    lean = copy.deepcopy(plain)
    recompute_stages(lean, 3)
    images = torch.randn(4, 3, 64, 32)
    kept = []
    for net in (plain, lean):
        torch.manual_seed(7)
        kept.append(step(net, images, False))
    assert kept[1] < 0.9 * kept[0]
    for (key, a), b in zip(plain.named_parameters(), lean.parameters()):
        assert torch.equal(a.grad, b.grad), key


def test_more_stages_than_there_are() -> None:
    backbone = (
        build_backbone("timm:test_resnet", last_stride=2) if find_spec("timm") else build_backbone("tiny")
    )
    with pytest.raises(
        ModelError, match=r"MODEL.CHECKPOINT_STAGES 7: \w+ has 4 stages after its stem, lower it"
    ):
        recompute_stages(backbone, 7)


def test_only_the_first_stages_and_only_in_training() -> None:
    backbone = build_backbone("tiny")
    recompute_stages(backbone, 1)
    images = torch.randn(2, 3, 32, 16, requires_grad=True)
    calls = []
    for k in (0, 3):
        backbone.stages[k].conv1.register_forward_hook(lambda *_, k=k: calls.append(k))
    backbone(images).sum().backward()
    assert sorted(calls) == [0, 0, 3]
    calls.clear()
    with torch.no_grad():
        backbone(images)
    assert sorted(calls) == [0, 3]
