"""Rank lists: scores, average precision and colours by hand, with and without identities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossreid.engine.evaluation.ranklist import BLUE, GREEN, GREY, RED, draw_rank_list, rank
from crossreid.engine.evaluation.retrieval import Features, evaluate


def features(count: int, seed: int, folder: Path, known: bool = True) -> Features:
    generator = torch.Generator().manual_seed(seed)
    paths = []
    for number in range(count):
        paths.append(str(folder / f"{seed}-{number}.png"))
        Image.new("RGB", (8, 16), (10 * number, 0, 0)).save(paths[-1])
    pids = torch.arange(count) % 3 if known else torch.full((count,), -1)
    cams = torch.arange(count) % 2
    return Features(torch.randn(count, 8, generator=generator), pids, cams, paths)


def test_the_list_is_that_of_the_scores(tmp_path: Path) -> None:
    query, gallery = features(5, 0, tmp_path), features(12, 1, tmp_path)
    expected = evaluate(query, gallery).per_query_ap
    for found in rank(query, gallery, np.arange(5), top=4):
        assert found.ap == pytest.approx(float(expected[found.query]), abs=1e-6)
        assert found.scores == sorted(found.scores, reverse=True)
        for row, score, right in zip(found.gallery, found.scores, found.right):
            a, b = query.vectors[found.query], gallery.vectors[row]
            assert score == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-5)
            assert right == bool(query.pids[found.query] == gallery.pids[row])
            assert not (right and query.cams[found.query] == gallery.cams[row])


def colours(path: Path) -> set[tuple[int, ...]]:
    return set(map(tuple, np.asarray(Image.open(path)).reshape(-1, 3)))


def test_unknown_identities_have_neutral_frames(tmp_path: Path) -> None:
    query, gallery = features(3, 0, tmp_path), features(9, 1, tmp_path)
    draw_rank_list(tmp_path / "known.png", query, gallery, queries=3)
    assert {BLUE, GREEN, RED} <= colours(tmp_path / "known.png")
    assert GREY not in colours(tmp_path / "known.png")
    unknown = features(9, 1, tmp_path, known=False)
    draw_rank_list(tmp_path / "unknown.png", unknown, unknown, queries=3)
    assert {BLUE, GREY} <= colours(tmp_path / "unknown.png")
    assert not {GREEN, RED} & colours(tmp_path / "unknown.png")
    for found in rank(unknown, unknown, np.arange(9), top=8):
        assert found.query not in found.gallery  # its own picture


def test_turned_photographs_stand_upright(tmp_path: Path) -> None:
    photo, turned = Image.new("RGB", (32, 16), "blue"), Image.Exif()
    photo.paste("red", (0, 0, 16, 16))
    turned[0x112] = 6  # its left side is the top
    photo.save(tmp_path / "turned.png", exif=turned)
    both = Features(
        torch.eye(2), torch.tensor([0, 0]), torch.tensor([0, 1]), [str(tmp_path / "turned.png")] * 2
    )
    draw_rank_list(tmp_path / "list.png", both, both, queries=1)
    with Image.open(tmp_path / "list.png") as drawn:
        assert [drawn.getpixel((36, y)) for y in (20, 110)] == [(255, 0, 0), (0, 0, 255)]
