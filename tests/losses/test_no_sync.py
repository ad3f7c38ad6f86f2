"""No loss reads a value on the host, forwards or backwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossreid.losses.alignment import align, domain_uniform, uniform, weights
from crossreid.losses.camera_blocks import CameraBlocks
from crossreid.losses.classification import mixup_virtual_class
from crossreid.losses.clusters import contrast
from crossreid.losses.disentangle import contrastive, masked_l2, mmd, orthogonality, reconstruction
from crossreid.losses.invariance import exemplar_invariance
from crossreid.losses.neighborhood import camera_agnostic, camera_aware_terms
from crossreid.losses.patch import ipfl, nearest_positive_triplet, pedal
from crossreid.losses.proxies import intra, offline, online
from crossreid.losses.triplet import batch_hard
from tests.no_sync import NoSync

INDEX, PIDS = torch.tensor([0, 3, 5, 5]), torch.tensor([0, 0, 1, 1])
CAMS = torch.tensor([0, 1, 0, 1, 0, 1, 2])
PATCHES, ROWS = torch.rand(2, 7, 3), torch.rand(3, 3)


BLOCKS = CameraBlocks.of(CAMS)


def _neighborhood(x: Tensor) -> Tensor:
    terms = camera_aware_terms(F.linear(x, torch.ones(7, 3)), INDEX, CAMS[INDEX], BLOCKS, scale=10, eps=0.8)
    return terms.intra + terms.inter


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "camera_aware": _neighborhood,
    "camera_agnostic": lambda x: camera_agnostic(F.linear(x, torch.ones(7, 3)), INDEX, scale=10, eps=0.8),
    "mixup": lambda x: mixup_virtual_class(x, torch.rand(5, 3), PIDS, torch.rand(4, 3), 0.3),
    "invariance": lambda x: exemplar_invariance(F.linear(x, torch.ones(7, 3)), INDEX, temperature=0.05, k=3),
    "batch_hard": lambda x: batch_hard(x, PIDS, margin=0.3),
    "pedal": lambda x: pedal(x.expand(2, 4, 3), PATCHES, INDEX, scale=5, k=2),
    "ipfl": lambda x: ipfl(x, torch.rand(2, 3), views=2, margin=2, max_rank=15, nearest=3),
    "nearest_positive": lambda x: nearest_positive_triplet(x, PIDS, margin=1, normalize=True),
    "mmd": lambda x: mmd(x, torch.rand(5, 3), sigmas=(1, 2)),
    "contrastive": lambda x: contrastive(x, PIDS, margin=2),
    "orthogonality": lambda x: orthogonality(x, torch.rand(4, 3)),
    "reconstruction": lambda x: reconstruction(x[None, None], torch.rand(1, 1, 4, 3), norm="l2"),
    "masked_l2": lambda x: masked_l2(x[None, None], torch.rand(1, 1, 4, 3), torch.ones(1, 1, 4, 3)),
    "contrast": lambda x: contrast(x, PIDS, temperature=0.05),
    "intra": lambda x: intra(x, PIDS, PIDS, PIDS[1:], temperature=0.07),
    "offline": lambda x: offline(x, PIDS, PIDS, PIDS[1:], temperature=0.07, negatives=2),
    "online": lambda x: online(
        x, PIDS, PIDS, ROWS, PIDS[1:], temperature=0.07, negatives=2, positives=2, weight=0.15
    ),
    "align": lambda x: align(x, ROWS[PIDS], PIDS, weights(x, ROWS[PIDS], k=3)),
    "uniform": uniform,
    "domain_uniform": lambda x: domain_uniform(x, PIDS, ROWS, PIDS[1:]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_never_wait(name: str) -> None:
    x = torch.rand(4, 3, requires_grad=True)
    with NoSync():
        LOSSES[name](x).backward()


def test_the_guard_sees_what_waits() -> None:
    x = torch.rand(3)
    for waits in (
        lambda: x.max().item(),
        lambda: bool(x.sum() > 0),
        lambda: x[x > 0.5],
        lambda: x.nonzero(),
        lambda: x.tolist(),
    ):
        with pytest.raises(AssertionError, match="wait"), NoSync():
            waits()
