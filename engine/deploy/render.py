"""Search results as a table, CSV, PNG or HTML."""

from __future__ import annotations

import base64
import csv
import html
import io
import math
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from PIL import Image, ImageDraw

from crossreid.datasets.decode import to_rgb
from crossreid.engine.deploy.search import Hit

TILE = (96, 192)
COLOURS = {
    "same person": (30, 160, 60),
    "unsure": (220, 150, 0),
    "different": (150, 150, 150),
    "": (150, 150, 150),
}


def verdict(score: float, calibration: dict | None) -> str:
    """ "same person", "unsure" or "different" by the calibrated thresholds; empty without a calibration."""
    if not calibration:
        return ""
    same, different = calibration["same"], calibration["different"]
    return "same person" if score >= same else "different" if score < different else "unsure"


def moment(time: float) -> str:
    """A time for people: a date and time, or the number of a frame; empty if unknown."""
    if not math.isfinite(time):
        return ""
    if time < 1e8:
        return f"{time:g}"
    return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def table(hits: Sequence[Hit], calibration: dict | None = None) -> str:
    """Hits, a line each."""
    width = max([6, *(len(hit.camera) for hit in hits)]) + 2
    lines = [f"{'rank':>4}  {'score':>6}  {'camera':<{width}}{'time':<21}{'':13}path"]
    for hit in hits:
        words = verdict(hit.score, calibration)
        lines.append(
            f"{hit.rank:>4}  {hit.score:6.3f}  {hit.camera:<{width}}{moment(hit.time):<21}{words:<13}{hit.path}"
        )
    return "\n".join(lines)


def write_csv(path: Path, hits: Sequence[Hit]) -> None:
    """Hits as rank,path,camera,score."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("rank", "path", "camera", "score"))
        writer.writerows((hit.rank, hit.path, hit.camera, f"{hit.score:.6f}") for hit in hits)


def thumbnail(path: str, size: tuple[int, int] = TILE) -> Image.Image:
    """A photo at a size in pixels (width, height)."""
    with Image.open(path) as image:
        return to_rgb(image).resize(size, Image.Resampling.BILINEAR)


def write_png(
    path: Path, queries: Sequence[str], hits: Sequence[Hit], calibration: dict | None = None
) -> None:
    """The photos searched for, and the hits with rank, camera and score beneath."""
    width, height = TILE[0] + 8, TILE[1] + 34
    sheet = Image.new("RGB", (width * (len(queries) + len(hits)) + 12, height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(queries):
        _tile(sheet, draw, column * width, name, (50, 90, 200), ("searched", ""))
    for column, hit in enumerate(hits, len(queries)):
        words = (f"{hit.rank}  {hit.camera}"[:16], f"{hit.score:.3f}")
        _tile(sheet, draw, 12 + column * width, hit.path, COLOURS[verdict(hit.score, calibration)], words)
    sheet.save(path)


def _tile(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    x: int,
    path: str,
    colour: tuple[int, int, int],
    words: tuple[str, str],
) -> None:
    draw.rectangle((x + 1, 1, x + TILE[0] + 6, TILE[1] + 6), fill=colour)
    sheet.paste(thumbnail(path), (x + 4, 4))
    draw.text((x + 3, TILE[1] + 8), words[0], "black")
    draw.text((x + 3, TILE[1] + 20), words[1], "black")


def data_url(path: str, size: tuple[int, int] = TILE) -> str:
    """A photo inside a page."""
    buffer = io.BytesIO()
    thumbnail(path, size).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Search</title><style>body{{font:15px system-ui,sans-serif;margin:1rem}}
div{{display:flex;flex-wrap:wrap;gap:.7rem}}figure{{margin:0;border-top:5px solid #999;width:96px;
overflow-wrap:anywhere}}img{{width:96px;display:block}}</style><h1>Search</h1><h2>Searched for</h2><div>{queries}</div>
<h2>Found</h2><div>{hits}</div></html>
"""


def write_html(
    path: Path, queries: Sequence[str], hits: Sequence[Hit], calibration: dict | None = None
) -> None:
    """One page with all pictures inside."""
    figures = []
    for hit in hits:
        words = verdict(hit.score, calibration)
        colour = "#{:02x}{:02x}{:02x}".format(*COLOURS[words])
        text = f"{hit.rank}. <b>{hit.score:.3f}</b><br>{html.escape(hit.camera)}<br>{moment(hit.time)}<br>{words}"
        figures.append(
            f'<figure style="border-color:{colour}"><img src="{data_url(hit.path)}" alt="" '
            f'title="{html.escape(hit.path)}"><figcaption>{text}</figcaption></figure>'
        )
    shown = "".join(f'<figure><img src="{data_url(name)}" alt=""></figure>' for name in queries)
    path.write_text(PAGE.format(queries=shown, hits="".join(figures)), encoding="utf-8")
