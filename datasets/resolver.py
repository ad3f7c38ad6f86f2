"""Finds a dataset below the root under the directory names that are in use, or says what was tried."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from crossreid.datasets.listing import inside, subfolders
from crossreid.datasets.market import FOLDERS
from crossreid.datasets.splits import DatasetError

MARKET_STYLE = FOLDERS
LISTS = ("list_train.txt", "list_query.txt", "list_gallery.txt")  # list_val.txt with TRAIN_VAL
MSMT_V1 = ("train", "test", *LISTS)
MSMT_V2 = ("mask_train_v2", "mask_test_v2", *LISTS)
OPEN_REID = ("images", "meta.json", "splits.json")
TORCHREID_NEW = ("images_{subset}", "splits_new_{subset}.json")
TORCHREID_MAT = ("images_{subset}", "cuhk03_new_protocol_config_{subset}.mat")
TORCHREID_OLD = ("images_{subset}", "splits_classic_{subset}.json")
SYSU = ("cropped_images", "cropped_image")
SUBSETS = ("labeled", "detected")


@dataclass(frozen=True)
class Layout:
    """Directory names in use below the root, and the sets of entries of which one must be there."""

    directories: tuple[str, ...]
    variants: tuple[tuple[str, ...], ...]
    example: str


LAYOUTS = {
    "market": Layout(
        (
            "Market-1501-v15.09.15",
            "market1501/Market-1501-v15.09.15",
            "market1501",
            "market",
            "Market",
            "Market-1501",
        ),
        (MARKET_STYLE,),
        "0002_c1s1_000451_03.jpg",
    ),
    "duke": Layout(
        (
            "DukeMTMC-reID",
            "dukemtmc-reid/DukeMTMC-reID",
            "dukemtmc/DukeMTMC-reID",
            "dukemtmcreid",
            "dukemtmc-reid",
            "dukemtmc",
            "duke",
        ),
        (MARKET_STYLE,),
        "0001_c2_f0046182.jpg",
    ),
    "cuhk": Layout(
        ("cuhk03-np/{subset}", "cuhknp/{subset}", "cuhk03_np/{subset}", "cuhk03", "cuhk03/cuhk03_release"),
        (MARKET_STYLE, TORCHREID_NEW, TORCHREID_MAT),
        "0003_c1_1.png",
    ),
    "cuhk03": Layout(
        ("cuhk03/cuhk03_release", "cuhk03"), (OPEN_REID, TORCHREID_OLD), "images/0000_0_0000.png"
    ),
    "msmt": Layout(
        ("MSMT17_V1", "msmt17v1/MSMT17_V1", "msmt17v1", "msmt17/MSMT17_V1", "MSMT17", "msmt17", "msmt"),
        (MSMT_V1, MARKET_STYLE),
        "train/0000/0000_000_01_0303morning_0008_0.jpg",
    ),
    "msmt17v2": Layout(
        ("MSMT17_V2", "msmt17v2/MSMT17_V2", "msmt17v2", "msmt17/MSMT17_V2"),
        (MSMT_V2,),
        "mask_train_v2/0000/0000_000_01_0303morning_0008_0.jpg",
    ),
    "cuhk_sysu": Layout(
        ("CUHK-SYSU", "cuhk_sysu", "cuhk-sysu", "cuhksysu"),
        tuple((folder,) for folder in SYSU),
        "cropped_images/p11422_s16929_1.jpg",
    ),
}


def default_root() -> Path:
    """The folder of all datasets where none is given: ``REID_DATASETS``, or ``./data``."""
    return Path(os.environ.get("REID_DATASETS") or "data").expanduser()


def _fit(path: Path, variants: tuple[tuple[str, ...], ...]) -> tuple[int | None, str]:
    """Number of the variant that ``path`` holds, or why none does."""
    if not path.is_dir():
        return None, "not there"
    lacking = [[entry for entry in variant if not inside(path, entry).exists()] for variant in variants]
    for number, missing in enumerate(lacking):
        if not missing:
            return number, ""
    nearest = min(zip(lacking, variants), key=lambda pair: len(pair[0]) / len(pair[1]))[0]
    return None, "there, but without " + ", ".join(nearest)


def _inner(path: Path, subset: str) -> list[Path]:
    """Folders inside one of a dataset's name, as unpacking leaves them, without those of the other subset."""
    other = {known for known in SUBSETS if known != subset}
    return [p for p in subfolders(path) if p.name.casefold() not in other] if path.is_dir() else []


def _tree(example: str, variants: tuple[tuple[str, ...], ...], directory: str) -> list[str]:
    lines = [f"  {directory}/"]
    for number, variant in enumerate(variants):
        lines += ["  or, in the same place:"] * (number > 0)
        lines += [f"    {entry}" + ("" if "." in entry else "/") for entry in variant]
    return [*lines, f"  with files such as {example}"]


def find(name: str, root: Path, *, subset: str) -> tuple[Path, int]:
    """Directory of a dataset and the number of the layout variant it holds.

    Args:
        name: a key of ``LAYOUTS``.
        root: folder of all datasets; the dataset's own directory is accepted too.
        subset: "labeled" or "detected", for CUHK03-NP.

    Raises:
        DatasetError: nothing fits; the message lists every path tried and the tree expected.
    """
    layout = LAYOUTS[name]
    directories = [directory.format(subset=subset) for directory in layout.directories]
    variants = tuple(tuple(entry.format(subset=subset) for entry in v) for v in layout.variants)
    named = [inside(root, directory) for directory in directories]
    candidates = [*named, *([root / subset] if name == "cuhk" else []), root, root / root.name]
    tried: dict[Path, str] = {}
    for path in candidates:
        if path in tried:
            continue
        for place in [path, *(_inner(path, subset) if path in named else [])]:
            variant, reason = _fit(place, variants)
            if variant is not None:
                return place, variant
            tried.setdefault(path, reason)
    tried.pop(root / root.name, None)
    lines = [
        f"{name}: not found below {root}" + ("" if root.is_dir() else ", which does not exist") + "; tried"
    ]
    lines += [f"  {path}  ({reason})" for path, reason in tried.items()]
    lines += ["expected below the root (DATASETS.ROOT, or the environment variable REID_DATASETS):"]
    lines += _tree(layout.example, variants, directories[0])
    lines += _hints(name, [path for path in tried if path.is_dir()])
    raise DatasetError("\n".join(lines))


def _hints(name: str, there: list[Path]) -> list[str]:
    """What to do where the other version of MSMT17, or CUHK03 in MATLAB's file, lies in one of the places tried."""
    other, mark = {"msmt": ("msmt17v2", "mask_train_v2"), "msmt17v2": ("msmt", "train")}.get(name, ("", ""))
    lines = [
        f"{path} holds {mark}/: ask for {other} instead" for path in there if mark and (path / mark).is_dir()
    ]
    mats = [mat for path in there if name.startswith("cuhk") for mat in sorted(path.rglob("cuhk-03.mat"))[:1]]
    return lines + [
        f"{mat} holds the images in MATLAB's HDF5 format, which is not read: let torchreid unpack it into "
        "images_labeled/ and images_detected/ with their splits_*.json, or take the CUHK03-NP folders"
        for mat in dict.fromkeys(mats)
    ]
