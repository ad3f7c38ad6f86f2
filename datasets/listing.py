"""What lies in a folder: images by name or content, inner folders without regard to case, text in any encoding."""

from __future__ import annotations

import codecs
import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from crossreid.datasets.files import open_regular
from crossreid.datasets.splits import DatasetError

# Pillow registers these, but only names them, or needs another program to show them.
UNREADABLE = ("BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "PDF", "WMF")
BY_CONTENT = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
PASSED_OVER = (
    "thumbs.db",
    "desktop.ini",
    "__macosx",
    "icon\r",
)  # what systems leave in folders, beside hidden files
CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
)  # what breaks a message's line, or moves a terminal's cursor


@functools.cache
def extensions() -> frozenset[str]:
    """The extensions of the formats that this Pillow reads, in lower case."""
    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(ext for ext, kind in known if kind in Image.OPEN and kind not in UNREADABLE)


@dataclass(frozen=True)
class Listing:
    """Files below a folder, sorted; paths relative to it, with ``/``."""

    images: tuple[str, ...]
    others: tuple[str, ...] = ()  # neither an image by extension nor by content

    def notes(self, name: str) -> tuple[str, ...]:
        """What is odd about the files, a line each."""
        lines = []
        if self.others:
            kinds = sorted({Path(file).suffix.lower() or "no extension" for file in self.others})
            lines.append(
                f"{name}: files left out because Pillow cannot read them as images: {len(self.others):,} "
                f"({shown(', '.join(kinds[:8]))}), first {shown(self.others[0])}"
            )
        nested = [file for file in self.images if "/" in file]
        if nested and len(nested) < len(self.images):
            folders = sorted({file.partition("/")[0] for file in nested})
            more = " …" if len(folders) > 5 else ""
            lines.append(
                f"{name}: {len(nested):,} of {len(self.images):,} images lie in sub-folders "
                f"({', '.join(folders[:5])}{more}) and are read, too; move them away if they are not meant"
            )
        return tuple(lines)


def list_images(folder: Path) -> Listing:
    """The images below a folder, sub-folders included; hidden files and ``__MACOSX`` are passed over.

    Raises:
        DatasetError: a folder that cannot be listed.
    """
    images: list[str] = []
    others: list[str] = []
    _walk(folder, "", frozenset(), images, others)
    return Listing(tuple(sorted(images)), tuple(sorted(others)))


def _walk(folder: Path, inner: str, above: frozenset[str], images: list[str], others: list[str]) -> None:
    """Add the files of one folder and those below it; ``above`` are the real paths on the way, against loops."""
    place = folder / inner
    real = os.path.realpath(place)
    if real in above:
        raise DatasetError(f"{place}: a link that leads back to {real}, which holds it; remove the link")
    try:
        with os.scandir(place) as found:
            entries = [(entry.name, entry.is_dir()) for entry in found]
    except OSError as error:
        raise DatasetError(f"{place}: cannot be listed ({error.strerror})") from error
    for name, is_folder in entries:
        if name[0] == "." or name.casefold() in PASSED_OVER:
            continue
        path = f"{inner}/{name}" if inner else name
        if CONTROL.search(name) and (is_folder or is_image(folder / path)):
            raise DatasetError(
                f"{shown(str(place))}: the name '{shown(name)}' holds a control character; rename it"
            )
        if is_folder:
            _walk(folder, path, above | {real}, images, others)
        else:
            known = f".{name.lower().rpartition('.')[2]}" in extensions()
            (images if known or is_image(folder / path) else others).append(path)


def shown(text: str) -> str:
    """A name for a message: control characters, line ends among them, are written as ``\\n``, ``\\x1b`` …"""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def is_image(path: Path) -> bool:
    """Whether a file is an image by its extension or, where that is unknown, by its first bytes."""
    if path.suffix.lower() in extensions():
        return True
    try:
        known = tuple(kind for kind in BY_CONTENT if kind in Image.OPEN)
        with os.fdopen(open_regular(path), "rb") as file, Image.open(file, formats=known):
            return True
    except Exception:  # Pillow's plugins raise nearly anything on what they do not know
        return False


def is_file(path: Path) -> bool:
    """Whether a file is there; False where the path cannot be one (too long, a NUL in it)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def inside(folder: Path, relative: str) -> Path:
    """``folder/relative``, each part as it is or else without regard to case."""
    path = folder
    for part in Path(relative).parts:
        exact = path / part
        if not exact.exists() and path.is_dir():
            try:
                same = sorted(p for p in path.iterdir() if p.name.casefold() == part.casefold())
            except OSError as error:
                raise DatasetError(f"{path}: cannot be listed ({error.strerror})") from error
            exact = same[0] if same else exact
        path = exact
    return path


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, "cam2" before "cam10"."""
    try:
        names = [p.name for p in folder.iterdir() if p.is_dir()]
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be listed ({error.strerror})") from error
    visible = [name for name in names if name[0] != "." and name.casefold() not in PASSED_OVER]
    return [folder / name for name in sorted(visible, key=natural)]


def natural(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """A sorting key that orders numbers in texts by their value."""
    parts = [part for part in re.split(r"(\d+)", text.casefold()) if part]
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], text


def read_text(path: Path) -> str:
    """A text file in UTF-8 (with or without byte-order mark), UTF-16 or, where it is neither, Latin-1.

    Raises:
        DatasetError: the file cannot be read, or is not text.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            content = file.read()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ["utf-16"]
    elif b"\0" in content[:64]:  # UTF-16 without a mark: every second byte of plain letters is 0
        encodings = ["utf-16-be" if content[:1] == b"\0" else "utf-16-le"]
    else:
        encodings = ["utf-8-sig", "latin-1"]
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise DatasetError(f"{path}: is not text in UTF-8, UTF-16 or Latin-1; save it as UTF-8")


def loose_images(folder: Path) -> list[str]:
    """Names of the images that lie directly in a folder."""
    try:
        names = sorted(path.name for path in folder.iterdir() if path.name[0] != "." and not path.is_dir())
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be listed ({error.strerror})") from error
    return [name for name in names if name.casefold() not in PASSED_OVER and is_image(folder / name)]
