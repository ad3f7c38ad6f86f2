"""One's own data in a table: a CSV file with the columns path, pid, camid, split."""

from __future__ import annotations

import csv
from pathlib import Path

from crossreid.datasets.splits import DatasetError, Splits, make_split

COLUMNS = ("path", "pid", "camid", "split")
PARTS = ("train", "query", "gallery")


def read_csv(path: Path, name: str) -> Splits:
    """Splits from a CSV file; image paths are relative to the file's folder (absolute ones are kept).

    Raises:
        DatasetError: a missing column or file, an unknown split, a number that is none; with the line.
    """
    rows: dict[str, list[tuple[str, int, int]]] = {part: [] for part in PARTS}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                found = ",".join(reader.fieldnames or ())
                raise DatasetError(
                    f"{path}: column {missing[0]} is missing; found {found!r}, needed path,pid,camid,split"
                )
            for row in reader:
                part, parsed = _parse(row, path, reader.line_num)
                rows[part].append(parsed)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: is not UTF-8 text ({error.reason})") from error
    train, query, gallery = (make_split(rows[p], f"{name}/{p}", relabel=p == "train") for p in PARTS)
    return Splits(name, str(path.parent), train, query, gallery)


def _parse(row: dict[str, str | None], path: Path, line: int) -> tuple[str, tuple[str, int, int]]:
    values = {column: (row[column] or "").strip() for column in COLUMNS}
    if values["split"] not in PARTS:
        raise DatasetError(
            f"{path}, line {line}: split {values['split']!r} is not one of train, query, gallery"
        )
    try:
        pid, camera = int(values["pid"]), int(values["camid"])
    except ValueError as error:
        raise DatasetError(
            f"{path}, line {line}: pid {values['pid']!r} and camid {values['camid']!r} must be whole numbers"
        ) from error
    image = path.parent / values["path"]
    if not values["path"] or not image.is_file():
        raise DatasetError(f"{path}, line {line}: no such image {image}")
    return values["split"], (str(image), pid, camera)
