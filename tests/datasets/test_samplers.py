from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from crossreid.datasets import DatasetError
from crossreid.datasets.samplers import IdentitySampler, PartnerSampler, ShuffledSampler, StyledSampler

WORLDS = (1, 2, 3)
PIDS = np.repeat(np.arange(20), np.arange(20) % 7 + 1)  # identities of 1 to 7 images
CAMS = np.random.default_rng(0).integers(1, 4, len(PIDS))


def joined(kind: type, world: int, *args: Any, epoch: int = 0, **kwargs: Any) -> np.ndarray:
    """The ranks' batches side by side: the global epoch."""
    ranks = [kind(*args, rank=rank, world_size=world, **kwargs).epoch(epoch) for rank in range(world)]
    return np.concatenate(ranks, axis=1)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("epoch", [0, 5])
def test_shuffled_is_the_same_sequence_for_every_world(world: int, epoch: int) -> None:
    everyone = joined(ShuffledSampler, world, 100, 12, seed=3, epoch=epoch)
    assert everyone.shape == (8, 12)
    np.testing.assert_array_equal(everyone, joined(ShuffledSampler, 1, 100, 12, seed=3, epoch=epoch))
    assert len(np.unique(everyone)) == everyone.size  # nobody twice


def test_shuffled_depends_on_seed_and_epoch_alone() -> None:
    epochs = [
        joined(ShuffledSampler, 1, 50, 10, seed=s, epoch=e) for s, e in itertools.product((0, 1), (0, 1))
    ]
    for a, b in itertools.combinations(epochs, 2):
        assert (a != b).any()
    left_out = [set(range(53)) - set(joined(ShuffledSampler, 1, 53, 10, epoch=e).ravel()) for e in range(20)]
    assert len(set().union(*left_out)) > 20  # not always the same ones


@pytest.mark.parametrize("world", WORLDS)
def test_shuffled_repeats_to_fill_an_epoch(world: int) -> None:
    everyone = joined(ShuffledSampler, world, 10, 6, num_batches=7)
    assert everyone.shape == (7, 6)
    counts = np.bincount(everyone.ravel(), minlength=10)
    assert counts.min() >= 4
    assert counts.max() <= 5
    np.testing.assert_array_equal(np.sort(everyone.ravel()[:10]), np.arange(10))
    np.testing.assert_array_equal(np.sort(everyone.ravel()[10:20]), np.arange(10))
    assert (everyone.ravel()[:10] != everyone.ravel()[10:20]).any()  # in a new order


def test_shuffled_smaller_than_a_batch_wraps() -> None:
    sampler = ShuffledSampler(5, 12)
    assert len(sampler) == 1
    assert np.bincount(sampler.epoch(0).ravel()).min() >= 2


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("cams", [None, CAMS])
def test_identity_batches(world: int, cams: np.ndarray | None) -> None:
    arguments = {"cams": cams, "seed": 1, "num_batches": 9}
    everyone = joined(IdentitySampler, world, PIDS, 6, 4, **arguments)
    np.testing.assert_array_equal(everyone, joined(IdentitySampler, 1, PIDS, 6, 4, **arguments))
    for rank in range(world):
        for batch in IdentitySampler(PIDS, 6, 4, rank=rank, world_size=world, **arguments).epoch(0):
            groups = batch.reshape(-1, 4)
            assert groups.shape == (6 // world, 4)
            assert (PIDS[groups] == PIDS[groups[:, :1]]).all()  # an identity's images together, on one rank
            for group in groups:
                available = int((PIDS[group[0]] == PIDS).sum())
                assert len(np.unique(group)) == min(4, available)
    for batch in everyone:
        assert len(np.unique(PIDS[batch])) == 6


def test_identities_come_equally_often() -> None:
    rows = IdentitySampler(PIDS, 5, 2, num_batches=12).epoch(0)
    seen = np.bincount(PIDS[rows[:, ::2]].ravel(), minlength=20)
    assert seen.tolist() == [3] * 20
    assert len(IdentitySampler(PIDS, 6, 4)) == 3


def test_other_cameras_are_preferred() -> None:
    pids = np.array([0] * 6 + [1] * 5 + [2] * 4)
    cams = np.array([1, 1, 1, 2, 2, 3] + [1, 1, 1, 1, 2] + [4, 4, 4, 4])
    sampler = IdentitySampler(pids, 3, 4, cams=cams, num_batches=40)
    firsts = set()
    for batch in sampler.epoch(0):
        for group in batch.reshape(3, 4):
            firsts.add(int(group[0]))
            others = int((cams[pids == pids[group[0]]] != cams[group[0]]).sum())
            assert (cams[group[1:]] != cams[group[0]]).sum() == min(3, others)
            assert len(set(group.tolist())) == 4
    assert firsts == set(range(15))


def test_identities_below_zero_and_fewer_than_asked() -> None:
    pids = np.array([-1, 5, 5, -1, 9, 9])
    rows = IdentitySampler(pids, 4, 2, num_batches=3).epoch(0)
    assert rows.shape == (3, 8)
    assert set(rows.ravel().tolist()) == {1, 2, 4, 5}
    with pytest.raises(DatasetError, match="at least one item with an identity"):
        IdentitySampler(np.array([-1, -1]), 2, 2)


@pytest.mark.parametrize("world", WORLDS)
def test_styled_rows_keep_their_image(world: int) -> None:
    choices = np.stack([np.arange(60), np.arange(60) + 60, np.arange(60) + 120], 1)
    parts = []
    for rank in range(world):
        sampler = ShuffledSampler(60, 6, rank=rank, world_size=world)
        styled = StyledSampler(sampler, choices, seed=2)
        np.testing.assert_array_equal(styled.epoch(3) % 60, sampler.epoch(3))
        parts.append(styled.epoch(3))
    everyone = np.concatenate(parts, 1)
    np.testing.assert_array_equal(everyone, StyledSampler(ShuffledSampler(60, 6), choices, seed=2).epoch(3))
    many = np.concatenate([StyledSampler(ShuffledSampler(60, 6), choices).epoch(e) for e in range(50)])
    share = np.bincount(many.ravel() // 60) / many.size
    assert np.abs(share - 1 / 3).max() < 0.03  # 3,000 draws: 3.5 standard deviations


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"batch_size": 10, "world_size": 3},
            "total batch size 10 cannot be divided evenly over 3 processes",
        ),
        ({"batch_size": 0}, "total batch size 0"),
        ({"batch_size": 4, "rank": 2, "world_size": 2}, "rank 2 is not in 0..1"),
    ],
)
def test_arguments(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        ShuffledSampler(100, **arguments)
    with pytest.raises(DatasetError, match="and into identities of 4 images"):
        IdentitySampler(PIDS, 3, 4, world_size=2)


def test_every_image_comes_beside_another_of_its_identity() -> None:
    pids = np.array([0, 0, 0, 1, 2, 2, 2, 2])
    batches = PartnerSampler(pids, 4, 3, seed=1).global_epoch(0).reshape(-1, 3)
    assert sorted(batches[:, 0]) == list(range(8)), "every image once"
    assert (pids[batches] == pids[batches[:, :1]]).all()
    many = PartnerSampler(pids, 8, 2, seed=1, num_batches=500).global_epoch(3).reshape(-1, 2)
    partners = many[many[:, 0] == 5, 1]
    counts = np.bincount(partners, minlength=8)
    assert counts[:4].sum() == 0
    assert (np.abs(counts[4:] / 500 - 1 / 4) < 0.07).all(), (
        "all images of the identity alike, itself included"
    )
    halves = [PartnerSampler(pids, 4, 2, rank=r, world_size=2, seed=1).epoch(2) for r in (0, 1)]
    assert np.array_equal(np.concatenate(halves, 1), PartnerSampler(pids, 4, 2, seed=1).epoch(2))
