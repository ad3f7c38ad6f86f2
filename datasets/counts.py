"""Published sizes of the datasets, and the check of what was found against them."""

from __future__ import annotations

from crossreid.datasets.splits import Split

Counts = tuple[int, int, int]  # identities, images, cameras

MSMT_ALL = (4101, 126_441, 15)  # all four lists as one training split
MSMT = {"train": (1041, 32_621, 15), "query": (3060, 11_659, 15), "gallery": (3060, 82_161, 15)}
COUNTS: dict[str, dict[str, Counts]] = {
    "market": {"train": (751, 12_936, 6), "query": (750, 3_368, 6), "gallery": (751, 15_913, 6)},
    "duke": {"train": (702, 16_522, 8), "query": (702, 2_228, 8), "gallery": (1110, 17_661, 8)},
    "cuhk/detected": {"train": (767, 7_365, 2), "query": (700, 1_400, 2), "gallery": (700, 5_332, 2)},
    "cuhk/labeled": {"train": (767, 7_368, 2), "query": (700, 1_400, 2), "gallery": (700, 5_328, 2)},
    "cuhk03": {"train": (1367, 26_263, 0)},  # cameras of the old protocol are not part of the table
    "cuhk_sysu": {"train": (11_934, 34_574, 0)},
    "msmt": MSMT,
    "msmt17v2": MSMT,
    "msmt/all": {**MSMT, "train": MSMT_ALL},
    "msmt17v2/all": {**MSMT, "train": MSMT_ALL},
}


def describe(counts: Counts) -> str:
    identities, images, cameras = counts
    return f"{identities:,} identities, {images:,} images" + (f", {cameras} cameras" if cameras else "")


def found(split: Split) -> Counts:
    return split.num_identities, len(split), split.num_cameras


def _cause(key: str, part: str, images: int, expected: int) -> str:
    if key.startswith("msmt") and part == "gallery" and images < expected:
        return "an archive in circulation holds 60,910 test images instead of 82,161: get a complete one"
    if key.startswith("msmt") and part == "train" and images < expected:
        return "usually a copy without list_val, or an incomplete archive"
    if key.startswith("cuhk/") and part == "train":
        return "usually the other subset (labeled, detected) in this folder"
    if images < expected:
        return "usually an archive that was not unpacked to its end"
    return "usually files added to the folder, or another dataset in it"


def differences(key: str, splits: dict[str, Split]) -> list[str]:
    """One line for each split that differs from the published size; none for datasets without one."""
    lines = []
    for part, expected in COUNTS.get(key, {}).items():
        if part not in splits:
            continue
        counts = found(splits[part])
        counts = counts if expected[2] else (counts[0], counts[1], 0)
        if counts != expected:
            cause = _cause(key, part, counts[1], expected[1])
            lines.append(
                f"{splits[part].name}: found {describe(counts)}; published: {describe(expected)}; {cause}"
            )
    return lines
