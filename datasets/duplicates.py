"""Files of the same content, in one split or in several."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence

from crossreid.datasets.files import open_regular


def same_content(paths: Sequence[str]) -> list[list[int]]:
    """Groups of positions whose files hold the same bytes, in the order of their first member.

    Only files that share their size with another are read; those that cannot be read belong to no group.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    for i, path in enumerate(paths):
        try:
            by_size[os.stat(path).st_size].append(i)  # noqa: PTH116 (a Path for each of 100,000 files is slow)
        except OSError:
            continue
    groups: dict[bytes, list[int]] = defaultdict(list)
    for same in by_size.values():
        for i in same if len(same) > 1 else ():
            try:
                with os.fdopen(open_regular(paths[i]), "rb") as file:
                    groups[hashlib.blake2b(file.read()).digest()].append(i)
            except OSError:
                continue
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)
