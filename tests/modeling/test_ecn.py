"""The network of ECN: frozen stages, the two branches, batch norm by domain, the retrieval feature."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from crossreid.modeling.backbones import build_backbone
from crossreid.modeling.ecn import ECNNet, ECNOutput


def network(backbone: str = "tiny", **options: float) -> ECNNet:
    torch.manual_seed(0)
    return ECNNet(build_backbone(backbone), 5, embedding=24, **options)  # type: ignore[arg-type]


def images(seed: int, count: int = 6) -> torch.Tensor:
    return torch.randn(count, 3, 32, 16, generator=torch.Generator().manual_seed(seed))


def parts(net: ECNNet, *arguments: torch.Tensor, joint: bool = False) -> ECNOutput:
    result = net(*arguments, joint=joint)
    assert isinstance(result, ECNOutput)
    return result


@pytest.mark.parametrize(
    ("backbone", "frozen"),
    [("tiny", {"stem", "stages.0", "stages.1"}), ("resnet18", {"conv1", "bn1", "layer1", "layer2"})],
)
def test_frozen_stages_never_move(backbone: str, frozen: set[str]) -> None:
    net = network(backbone, frozen_stages=3)
    net.eval()
    net.train()  # what the trainer does around every evaluation
    prefixes = tuple(f"backbone.{name}." for name in frozen)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, weight_decay=0.1)
    out = parts(net, images(1), images(2))
    (out.logits.square().mean() + out.exemplars.square().mean()).backward()
    optimizer.step()
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith(prefixes), name


def test_fewer_frozen_stages_train_more() -> None:
    counts = [sum(p.requires_grad for p in network(frozen_stages=n).parameters()) for n in range(4)]
    assert counts[0] == len(list(network().parameters()))
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == 4


def test_branches_follow_the_paper() -> None:
    """ReLU before the classifier, unit length before the memory, both on the batch-normalised embedding."""
    net = network(dropout=0.0)
    out = parts(net, images(1), images(2))
    pooled = [net.backbone(images(i)).mean(dim=(2, 3)) for i in (1, 2)]
    wide = [F.batch_norm(net.embedding(p), None, None, training=True) for p in pooled]
    torch.testing.assert_close(out.logits, net.classifier(wide[0].relu()))  # type: ignore[misc]
    torch.testing.assert_close(out.exemplars, F.normalize(wide[1]))
    torch.testing.assert_close(out.source, F.normalize(pooled[0]))
    torch.testing.assert_close(out.target, F.normalize(pooled[1]))


def test_dropout_acts_on_the_unit_vectors() -> None:
    net, plain = network(dropout=0.5), network(dropout=0.0)
    dropped = parts(net, images(1), images(2)).exemplars
    kept = dropped != 0
    assert 0.3 < kept.float().mean() < 0.7
    whole = parts(plain, images(1), images(2)).exemplars
    torch.testing.assert_close(dropped[kept], 2 * whole[kept])


def test_batch_norm_sees_each_domain_or_both() -> None:
    net = network(dropout=0.0)
    alone = parts(net, images(1))
    assert len(alone.exemplars) == len(alone.target) == 0
    apart = parts(net, images(1), images(2))
    torch.testing.assert_close(apart.logits, alone.logits)
    together = parts(net, images(1), images(2), joint=True)
    assert (together.logits - alone.logits).abs().max() > 1e-4
    whole = parts(net, torch.cat([images(1), images(2)]))
    torch.testing.assert_close(together.logits, whole.logits[:6])


def test_retrieval_feature_is_the_pooled_one() -> None:
    net = network()
    net.eval()
    with torch.no_grad():
        features = net(images(3))
        torch.testing.assert_close(features, F.normalize(net.backbone(images(3)).mean(dim=(2, 3))))
    assert features.shape == (6, 256)


def test_new_layers_are_all_but_the_backbone() -> None:
    net = network()
    rest = [*net.embedding.parameters(), *net.norm.parameters(), *net.classifier.parameters()]  # type: ignore[union-attr]
    assert {id(p) for p in net.new_layers()} == {id(p) for p in rest}
    assert isinstance(net.norm, nn.BatchNorm1d)
