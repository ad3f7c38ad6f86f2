"""One's own data in a table: a CSV file with the columns path, camid and, where they are known, pid and split."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from crossreid.datasets.listing import CONTROL, is_file, read_text, shown
from crossreid.datasets.splits import PARTS, UNKNOWN, DatasetError, Row, Splits, make_splits

NEEDED = "path,pid,camid,split"
SEPARATORS = ",;\t"


def read_csv(path: Path, name: str, *, missing: str = "error") -> Splits:
    """Splits from a CSV file; image paths are relative to the file's folder (absolute ones are kept).

    Without the column ``split`` all images are for training, without ``pid`` (or with -1) their identity is unknown.

    Args:
        path: the file: comma, semicolon or tab between the fields; UTF-8, UTF-16 or Latin-1.
        name: of the dataset.
        missing: "error" refuses rows whose image is not there, "keep" leaves them to the decoder.

    Raises:
        DatasetError: a missing column or file, an unknown split, a number that is none; with the line.
    """
    text = read_text(path)
    header = text.partition("\n")[0]
    separator = max(SEPARATORS, key=header.count)
    rows: dict[str, list[Row]] = {part: [] for part in PARTS}
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, delimiter=separator)
    try:
        columns = [(column or "").strip().lower() for column in reader.fieldnames or ()]
        reader.fieldnames = columns
        _check_columns(columns, path)
        for row in reader:
            part, parsed = _parse(row, path, reader.line_num, missing)
            rows[part].append(parsed)
    except csv.Error as error:
        raise DatasetError(f"{path}, line {reader.line_num}: is not CSV ({error})") from error
    if not any(rows.values()):
        raise DatasetError(f"{path}: no images; below the header needs a line an image")
    if bool(rows["query"]) != bool(rows["gallery"]):
        lacking, there = ("query", "gallery") if rows["gallery"] else ("gallery", "query")
        raise DatasetError(
            f"{path}: {len(rows[there]):,} {there} images but none with split {lacking}; evaluation needs both"
        )
    return make_splits(name, str(path.parent), rows, unlabelled=True)


def _check_columns(columns: list[str], path: Path) -> None:
    lacking = [column for column in ("path", "camid") if column not in columns]
    if lacking:
        raise DatasetError(
            f"{path}: column {lacking[0]} is missing; found {','.join(columns)[:200]!r}, needed {NEEDED}, "
            "or path,camid for images without identities"
        )


def _parse(row: dict[str, str | None], path: Path, line: int, missing: str) -> tuple[str, Row]:
    values = {column: (value or "").strip() for column, value in row.items() if isinstance(value, str)}
    part = values.get("split", "").lower() if "split" in row else "train"
    if part not in PARTS:
        raise DatasetError(f"{path}, line {line}: split {part[:40]!r} is not one of train, query, gallery")
    pid = values.get("pid", "") if "pid" in row else str(UNKNOWN)
    camera = values.get("camid", "")
    try:
        numbers = int(pid), int(camera)
    except ValueError as error:
        raise DatasetError(
            f"{path}, line {line}: pid {pid[:40]!r} and camid {camera[:40]!r} must be whole numbers (-1: unknown)"
        ) from error
    if min(numbers) < UNKNOWN:
        raise DatasetError(
            f"{path}, line {line}: pid {pid[:40]} and camid {camera[:40]} must be 0 or more, or -1 for unknown"
        )
    relative = values.get("path", "")
    image = path.parent / relative
    if "\\" in relative and not is_file(image):  # written on Windows
        image = path.parent / relative.replace("\\", "/")
    if not relative or CONTROL.search(relative) or (missing == "error" and not is_file(image)):
        raise DatasetError(f"{path}, line {line}: no such image {shown(str(image))[:300]}")
    return part, (str(image), *numbers)
