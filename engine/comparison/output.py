"""Writes tables and pictures of a comparison, each whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crossreid.datasets.files import draft
from crossreid.engine.comparison.groups import Group
from crossreid.engine.comparison.table import FORMATS, Table
from crossreid.engine.errors import InputError
from crossreid.engine.extras import installed, need


def check_outputs(tables: Sequence[Path], picture: Path | None) -> None:
    """See that every file can be written in the end.

    Raises:
        InputError: a format that is not known, a missing package.
    """
    for path in tables:
        if path.suffix[1:] not in FORMATS:
            raise InputError(f"{path}: a table is written as .{', .'.join(FORMATS)}")
    if picture is not None:
        need("a picture of learning curves", "report", "matplotlib")
        if picture.suffix not in (".png",):
            raise InputError(f"{picture}: curves are drawn as .png")


def write_table(path: Path, table: Table, groups: Sequence[Group] = ()) -> Path:
    """A table in the format that the file's name ends in; HTML with the learning curves where they can be drawn."""
    pictures = []
    if path.suffix == ".html" and groups and installed("matplotlib"):
        from crossreid.engine.comparison.pictures import learning_curves, png

        pictures = [("Learning curves", png(learning_curves(groups)))]
    return write(path, table.render(path.suffix[1:], pictures).encode())


def draw_curves(path: Path, groups: Sequence[Group]) -> Path:
    """The learning curves as a PNG file."""
    from crossreid.engine.comparison.pictures import learning_curves, png

    return write(path, png(learning_curves(groups)))


def write(path: Path, content: bytes) -> Path:
    """Bytes to a file, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error})") from None
    return path
