"""A picture of queries with their nearest gallery images: right ones green, wrong ones red, unknown ones grey."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

from crossreid.datasets.decode import to_rgb
from crossreid.engine.evaluation.retrieval import Features
from crossreid.engine.files import write_whole

TILE = (64, 128)
CAPTION = 14  # pixels of text beneath a tile
GREEN, RED, BLUE, GREY = (30, 160, 60), (210, 40, 40), (50, 90, 200), (150, 150, 150)


@dataclass(frozen=True)
class Ranked:
    """A query with its nearest gallery images, best first.

    Args:
        query: row.
        gallery: rows.
        scores: cosine similarities.
        right: whether each is of the query's identity; None: one of the two is unknown.
        ap: average precision over the whole gallery (rectangular); NaN: no match, or nothing known.
    """

    query: int
    gallery: list[int]
    scores: list[float]
    right: list[bool | None]
    ap: float


def rank(query: Features, gallery: Features, rows: np.ndarray, *, top: int = 10) -> list[Ranked]:
    """Rank the gallery for some queries by cosine similarity.

    Images of the query's own identity and camera are left out, as in the scores, as is junk; where identities are
    unknown (-1), the query's own picture is.
    """
    similarity = F.normalize(query.vectors[rows].float()) @ F.normalize(gallery.vectors.float()).T
    pids = query.pids[rows, None]
    known = bool((query.pids >= 0).any())
    own = (pids == gallery.pids) & (query.cams[rows, None] == gallery.cams)
    left_out = own | (gallery.pids == -1) if known else _same_path(query, gallery, rows)
    similarity.masked_fill_(left_out, -torch.inf)
    order = similarity.argsort(dim=1, descending=True, stable=True)
    result = []
    for place, row in enumerate(rows.tolist()):
        columns = order[place][similarity[place][order[place]] > -torch.inf]
        match = gallery.pids[columns] == query.pids[row]
        positions = match.nonzero().flatten().double()
        ap = (
            float(((torch.arange(len(positions)) + 1) / (positions + 1)).mean())
            if len(positions)
            else math.nan
        )
        best = columns[:top].tolist()
        right: list[bool | None] = [bool(m) if known else None for m in match[:top].tolist()]
        result.append(Ranked(row, best, similarity[place][best].tolist(), right, ap if known else math.nan))
    return result


def _same_path(query: Features, gallery: Features, rows: np.ndarray) -> torch.Tensor:
    names = np.array(gallery.paths or [""] * len(gallery))
    own = [names == (query.paths[row] if query.paths else None) for row in rows.tolist()]
    return torch.from_numpy(np.array(own, bool).reshape(len(rows), len(gallery)))


def draw_rank_list(path: Path, query: Features, gallery: Features, *, queries: int, top: int = 10) -> None:
    """Draw evenly spaced queries (blue) with camera and average precision, each with its ``top`` nearest images.

    Beneath each image stand its camera and its score.

    Args:
        path: of the PNG.
        query, gallery: features with paths.
        queries: rows of the picture.

    Raises:
        OSError: an image that is gone, a full or read-only disk; an earlier picture is whole.
    """
    rows = np.unique(np.linspace(0, len(query.pids) - 1, queries).round().astype(int))
    width, height = TILE[0] + 8, TILE[1] + 8 + CAPTION
    sheet = Image.new("RGB", (width * (top + 1) + 12, height * len(rows)), "white")
    assert query.paths is not None
    assert gallery.paths is not None
    for y, found in enumerate(rank(query, gallery, rows, top=top)):
        ap = f" AP {100 * found.ap:.0f}" if math.isfinite(found.ap) else ""
        words = f"c{int(query.cams[found.query])}{ap}"
        _paste(sheet, query.paths[found.query], 0, y * height, BLUE, words)
        for x, (column, score, right) in enumerate(zip(found.gallery, found.scores, found.right)):
            colour = GREY if right is None else GREEN if right else RED
            words = f"c{int(gallery.cams[column])} {score:.2f}"
            _paste(sheet, gallery.paths[column], 12 + width * (x + 1), y * height, colour, words)
    write_whole(path, lambda file: sheet.save(file, "PNG"))


def _paste(sheet: Image.Image, path: str, x: int, y: int, colour: tuple[int, int, int], words: str) -> None:
    with Image.open(path) as image:
        tile = to_rgb(image).resize(TILE, Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((x + 1, y + 1, x + TILE[0] + 6, y + TILE[1] + 6), fill=colour)
    sheet.paste(tile, (x + 4, y + 4))
    draw.text((x + 4, y + TILE[1] + 7), words, "black")
