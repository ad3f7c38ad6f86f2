"""A picture of queries with their nearest gallery images, right ones framed green, wrong ones red."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

from crossreid.engine.evaluation.retrieval import Features

TILE = (64, 128)
GREEN, RED, BLUE = (30, 160, 60), (210, 40, 40), (50, 90, 200)


def draw_rank_list(path: Path, query: Features, gallery: Features, *, queries: int, top: int = 10) -> None:
    """Draw evenly spaced queries (blue), each with its ``top`` nearest gallery images of other passes.

    Images of the query's own identity and camera are left out, as in the scores.

    Args:
        path: of the PNG.
        query, gallery: features with paths.
        queries: rows of the picture.
    """
    rows = np.unique(np.linspace(0, len(query.pids) - 1, queries).round().astype(int))
    similarity = F.normalize(query.vectors[rows].float()) @ F.normalize(gallery.vectors.float()).T
    own = (query.pids[rows, None] == gallery.pids) & (query.cams[rows, None] == gallery.cams)
    similarity.masked_fill_(own | (gallery.pids == -1), -torch.inf)
    nearest = similarity.topk(min(top, similarity.shape[1])).indices
    width, height = TILE[0] + 8, TILE[1] + 8
    sheet = Image.new("RGB", (width * (top + 1) + 12, height * len(rows)), "white")
    assert query.paths is not None
    assert gallery.paths is not None
    for y, (row, found) in enumerate(zip(rows, nearest.tolist())):
        _paste(sheet, query.paths[row], 0, y * height, BLUE)
        for x, column in enumerate(found):
            right = bool(gallery.pids[column] == query.pids[row])
            _paste(sheet, gallery.paths[column], 12 + width * (x + 1), y * height, GREEN if right else RED)
    sheet.save(path)


def _paste(sheet: Image.Image, path: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    with Image.open(path) as image:
        tile = image.convert("RGB").resize(TILE, Image.Resampling.BILINEAR)
    ImageDraw.Draw(sheet).rectangle((x + 1, y + 1, x + TILE[0] + 6, y + TILE[1] + 6), fill=colour)
    sheet.paste(tile, (x + 4, y + 4))
