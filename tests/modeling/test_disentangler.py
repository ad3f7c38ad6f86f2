"""The encoder-decoder: sizes, whose pose is drawn, private encoders, swaps, gradients for every parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crossreid.modeling.arn import AdaptationNet, stages_of
from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.disentangler import Disentangler, DisentanglerOutput, build_decoder
from crossreid.modeling.errors import ModelError

S = 4  # source images in the batch of 6


def network(*, pool: str = "max") -> Disentangler:
    torch.manual_seed(0)
    decoder = build_decoder(512, 8, [12, 8], transposed=False)
    return Disentangler(
        build_backbone("tiny"), {"any": build_backbone("tiny")}, decoder, num_classes=5, pool=pool
    )


def adaptation(backbone: str = "tiny") -> AdaptationNet:
    torch.manual_seed(0)
    identity = build_backbone(backbone)
    decoder = build_decoder(identity.out_channels, identity.stride, [9, 12, 8], transposed=True)
    return AdaptationNet(identity, decoder, 5)


def images(seed: int, count: int = 6) -> torch.Tensor:
    return torch.randn(count, 3, 32, 16, generator=torch.Generator().manual_seed(seed))


DONORS = torch.tensor([1, 0, 3, 2, 4, 5])


def parts(net: Disentangler) -> DisentanglerOutput:
    result = net(images(1), images(2), DONORS, sources=S)
    assert isinstance(result, DisentanglerOutput)
    return result


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("stride", [2, 8, 16, 32])
def test_decoder_undoes_the_stride(stride: int, transposed: bool) -> None:
    decoder = build_decoder(10, stride, [9, 8, 7, 6], transposed=transposed)
    assert decoder(torch.randn(2, 10, 3, 2)).shape == (2, 3, 3 * stride, 2 * stride)
    doublings = stride.bit_length() - 1
    assert len(decoder) == doublings
    widths = [10, *[9, 8, 7, 6][4 - doublings + 1 :]]
    assert [next(block.parameters()).shape[int(not transposed)] for block in decoder] == widths


def test_published_decoder_has_five_blocks_of_three_convolutions() -> None:
    with torch.device("meta"):
        decoder = build_decoder(4096, 32, [2048, 512, 256, 64], transposed=False)
    shapes = [[m.weight.shape[:2] for m in block if isinstance(m, torch.nn.Conv2d)] for block in decoder]
    assert [len(block) for block in shapes] == [3] * 5
    assert [block[0][1] for block in shapes] == [4096, 2048, 512, 256, 64]
    assert [block[-1][0] for block in shapes] == [2048, 512, 256, 64, 3]


def test_wrong_decoders() -> None:
    with pytest.raises(ModelError, match="not 12"):
        build_decoder(8, 12, [4] * 4, transposed=False)
    with pytest.raises(ModelError, match="1 decoder widths for a stride of 8; 2"):
        build_decoder(8, 8, [4], transposed=False)


def test_identity_is_decoded_in_the_pose_of_the_donor() -> None:
    net = network()
    out = parts(net)
    maps, poses = net.identity(images(1)), net.poses["any"](images(2))
    torch.testing.assert_close(out.identity, maps.amax(dim=(2, 3)))
    torch.testing.assert_close(out.pose, poses.amax(dim=(2, 3)))
    torch.testing.assert_close(out.images, net.decoder(torch.cat([maps, poses[DONORS]], dim=1)))  # type: ignore[misc]
    torch.testing.assert_close(out.logits, net.classifier(maps[:S].amax(dim=(2, 3))))  # type: ignore[misc]


@pytest.mark.parametrize("backbone", ["tiny", "resnet18"])
def test_arn_encodes_each_domain_by_itself(backbone: str) -> None:
    net = adaptation(backbone)
    net.dropout.p = 0.0
    source, target = net(images(1), images(2, 4))
    early = nn.Sequential(*stages_of(net.identity)[:-1])
    last = stages_of(net.identity)[-1]
    maps = early(images(2, 4))
    shared, private = last(maps), net.private["target"](maps)
    torch.testing.assert_close(target.shared, shared.mean(dim=(2, 3)))
    torch.testing.assert_close(target.private, private.mean(dim=(2, 3)))
    torch.testing.assert_close(target.images, net.decoder(shared + private))
    assert source.logits.shape == (6, 5)
    assert source.images.shape == (6, 3, 32, 16)
    assert source.images.abs().max() < 1
    net.eval()
    torch.testing.assert_close(net(images(3)), net.identity(images(3)).mean(dim=(2, 3)))


def test_arn_moves_statistics_of_last_stages_as_two_passes_would() -> None:
    net, other = adaptation(), adaptation()
    net(images(1), images(2))
    early, last = nn.Sequential(*stages_of(other.identity)[:-1]), stages_of(other.identity)[-1]
    for module in last.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    with torch.no_grad():
        for batch in (images(2), images(1)):
            maps = early(batch)
            last(maps), last(maps)
    for name, value in stages_of(net.identity)[-1].state_dict().items():
        if "running" in name:
            torch.testing.assert_close(value, last.state_dict()[name])


@pytest.mark.parametrize("target", [True, False], ids=["both domains", "source alone"])
@pytest.mark.parametrize("arn", [False, True])
def test_every_parameter_gets_a_gradient(arn: bool, target: bool) -> None:
    """Data-parallel training waits for all of them; those of an idle encoder are zero."""
    net = adaptation() if arn else network()
    out = net(images(1), images(2) if target else None)[0] if arn else parts(net)
    (out.images.square().mean() + out.logits.square().mean()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None or (arn and target and "private.target" in name), name
        idle = arn and name.startswith("private.target")
        assert parameter.grad is None or bool((parameter.grad != 0).any()) != idle, name


def test_size_must_be_divisible_by_the_stride() -> None:
    odd = torch.randn(6, 3, 36, 16)
    with pytest.raises(ModelError, match=r"36x16 pixels.*divisible by 8"):
        network()(odd, odd, DONORS, sources=S)


@pytest.mark.parametrize("arn", [False, True])
def test_swapped_shows_every_identity_in_every_pose(arn: bool) -> None:
    net = (adaptation() if arn else network()).eval()
    if arn:  # the last stages begin alike
        for parameter in net.private["target"].parameters():
            parameter.data.mul_(2)
    pictures = net.swapped(images(3, 4), target=True)
    assert pictures.shape == (4, 4, 3, 32, 16)
    with torch.no_grad():
        if arn:
            shared, private = net.maps(images(3, 4), "target")
            expected = (net.decoder(shared[1:2] + private[2:3])[0] + 1) / 2
        else:
            one, other = net.identity(images(3, 4)[1:2]), net.poses["any"](images(3, 4)[2:3])
            expected = net.decode(one, other)[0]
        torch.testing.assert_close(pictures[1, 2], expected, rtol=1e-4, atol=1e-7 if arn else 1e-5)
    assert not torch.equal(pictures[1, 2], pictures[2, 1])


def test_evaluation_needs_the_identity_encoder_alone() -> None:
    whole = network().eval()
    slim = Disentangler(build_backbone("tiny"), {}, None)
    slim.load_state_dict({k: v for k, v in whole.state_dict().items() if k.startswith("identity.")})
    slim.eval()
    torch.testing.assert_close(slim(images(4)), whole(images(4)))
    assert slim(images(4)).shape == (6, 256)
