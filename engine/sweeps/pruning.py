"""The median rule: a run that is behind the median of finished runs of its own seed is stopped."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from yacs.config import CfgNode

from crossreid.configs.methods import method_config

FINISHED = 4  # runs of the same seed that must be there to compare with
EVALUATIONS = 2  # of the run itself, since its last loss has started


def last_start(cfg: CfgNode) -> int:
    """The epoch in which the last of a run's losses starts.

    Starts of losses (``*_START``) count after the epochs on the source alone; one beyond the last epoch, or of
    weight 0, never comes.
    """
    section = cfg.get(getattr(method_config(cfg.METHOD), "SECTION", ""), {})
    first = int(section.get("SOURCE_EPOCHS", 0)) + int(section.get("PLAIN_EPOCHS", 0))
    starts = [
        first + int(value)
        for key, value in section.items()
        if key.endswith("_START") and section.get(f"{key[:-6]}_WEIGHT", 1)
    ]
    return max([start for start in starts if start <= cfg.SOLVER.EPOCHS], default=first + 1)


def behind(mine: Sequence[tuple[int, float]], others: Sequence[Mapping[int, float]], start: int) -> bool:
    """Whether a run's latest value is below the median of others at the same epoch.

    Args:
        mine: epochs and objectives of the run.
        others: the same of finished runs of the same seed.
        start: epoch in which the run's last loss starts; values before it do not count.
    """
    since = [(epoch, value) for epoch, value in mine if epoch >= start]
    if len(since) < EVALUATIONS:
        return False
    epoch, value = since[-1]
    there = [other[epoch] for other in others if epoch in other]
    return len(there) >= FINISHED and value < statistics.median(there)
