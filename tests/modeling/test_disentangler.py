"""The encoder-decoder: sizes, whose pose is drawn, private encoders, swaps, gradients for every parameter."""

from __future__ import annotations

import pytest
import torch

from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.disentangler import Disentangler, DisentanglerOutput, build_decoder
from crossreid.modeling.errors import ModelError

S = 4  # source images in the batch of 6


def network(*, arn: bool = False, pool: str = "max", target: bool = True) -> Disentangler:
    torch.manual_seed(0)
    domains = (["source", "target"] if target else ["source"]) if arn else ["any"]
    identity, poses = build_backbone("tiny"), {d: build_backbone("tiny") for d in domains}
    decoder = build_decoder(256 if arn else 512, 8, [12, 8], transposed=arn)
    return Disentangler(identity, poses, decoder, num_classes=5, pool=pool)


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


def test_arn_adds_the_maps_of_private_encoders() -> None:
    net = network(arn=True, pool="avg")
    out = parts(net)
    maps = net.identity(images(1))
    poses = torch.cat([net.poses["source"](images(2)[:S]), net.poses["target"](images(2)[S:])])
    torch.testing.assert_close(out.pose, poses.mean(dim=(2, 3)))
    torch.testing.assert_close(out.images, net.decoder(maps + poses[DONORS]))  # type: ignore[misc]


@pytest.mark.parametrize("arn", [False, True])
@pytest.mark.parametrize("sources", [S, 6], ids=["both domains", "source alone"])
def test_every_parameter_gets_a_gradient(arn: bool, sources: int) -> None:
    """Data-parallel training waits for all of them; those of an idle encoder are zero."""
    net = network(arn=arn)
    out = net(images(1), images(2), DONORS, sources=sources)
    (out.images.square().mean() + out.logits.square().mean()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        idle = arn and sources == 6 and name.startswith("poses.target")
        assert bool((parameter.grad != 0).any()) != idle, name


def test_size_must_be_divisible_by_the_stride() -> None:
    odd = torch.randn(6, 3, 36, 16)
    with pytest.raises(ModelError, match=r"36x16 pixels.*divisible by 8"):
        network()(odd, odd, DONORS, sources=S)


@pytest.mark.parametrize("target", [False, True])
@pytest.mark.parametrize("arn", [False, True])
def test_swapped_shows_every_identity_in_every_pose(arn: bool, target: bool) -> None:
    net = network(arn=arn).eval()
    pictures = net.swapped(images(3, 4), target=target)
    assert pictures.shape == (4, 4, 3, 32, 16)
    encoder = net.poses[("target" if target else "source") if arn else "any"]
    with torch.no_grad():
        one, other = net.identity(images(3, 4)[1:2]), encoder(images(3, 4)[2:3])
        torch.testing.assert_close(pictures[1, 2], net.decode(one, other)[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(pictures[1, 2], pictures[2, 1])


def test_evaluation_needs_the_identity_encoder_alone() -> None:
    whole = network().eval()
    slim = Disentangler(build_backbone("tiny"), {}, None)
    slim.load_state_dict({k: v for k, v in whole.state_dict().items() if k.startswith("identity.")})
    slim.eval()
    torch.testing.assert_close(slim(images(4)), whole(images(4)))
    assert slim(images(4)).shape == (6, 256)
