"""Batch norm over groups of images, and over domains."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crossreid.modeling import ModelError
from crossreid.modeling.batch_groups import DomainNorm, group_batch_norms, separate_domains
from tests.no_sync import NoSync


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(4 * 4)).double()


def _grouped(network: nn.Sequential, group: int) -> nn.Sequential:
    other = _network()
    group_batch_norms(other, group)
    other.load_state_dict(network.state_dict())
    return other


def test_groups_are_normalised_by_themselves_and_move_the_statistics_together() -> None:
    plain, x = _network(), torch.randn(6, 3, 4, 4, dtype=torch.float64)
    grouped = _grouped(plain, 2)
    with NoSync():
        y = grouped(x)
    means = []
    for i in range(0, 6, 2):
        alone = _network()
        alone.load_state_dict(plain.state_dict())
        torch.testing.assert_close(y[i : i + 2], alone(x[i : i + 2]))
        means.append(alone[3].running_mean)
    torch.testing.assert_close(grouped[3].running_mean, torch.stack(means).mean(0))
    assert int(grouped[1].num_batches_tracked) == 1
    grouped.eval()
    torch.testing.assert_close(grouped(x[:1]), grouped(x)[:1])


def test_the_gradient_is_that_of_the_groups() -> None:
    grouped, x = _grouped(_network(), 3), torch.randn(6, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 16, dtype=torch.float64)
    (grouped(x) * weight).sum().backward()
    whole = x.grad.clone()
    for part in (slice(0, 3), slice(3, 6)):
        (own,) = torch.autograd.grad((grouped(x[part]) * weight[part]).sum(), x)
        torch.testing.assert_close(whole[part], own[part])


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ModelError, match="BN_GROUP 4 does not divide the 6 images"):
        _grouped(_network(), 4)(torch.randn(6, 3, 4, 4, dtype=torch.float64))


def test_domains_have_norms_of_their_own() -> None:
    network = _network()
    separate_domains(network)
    group_batch_norms(network, 3)
    norm = network[1]
    assert isinstance(norm, DomainNorm)
    norm.joint = True
    x = torch.randn(6, 4, 2, 2, dtype=torch.float64)
    x[:3] += 5
    y = norm(x)
    assert y[:3].mean().abs() < 1e-6
    assert y[3:].mean().abs() < 1e-6
    assert norm.source.running_mean.min() > 0.3 > norm.target.running_mean.max()
    norm.begin()
    assert torch.equal(norm.source.running_mean, norm.target.running_mean)
    norm.eval()
    torch.testing.assert_close(norm(x), norm.target(x))
