"""What a sweep is, kept beside its runs: starting it again goes on with it, and with nothing else."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import yaml

from crossreid.configs.loading import values_of
from crossreid.configs.reading import parse
from crossreid.datasets.files import draft
from crossreid.engine.comparison.groups import differing
from crossreid.engine.errors import InputError
from crossreid.engine.sweeps.plan import Sweep

FREE = ("SEED", "LOG", "DATASETS.ROOT", "DATASETS.CACHE", "DATALOADER.WORKERS")  # of the base config


def keep(sweep: Sweep) -> None:
    """Write what the sweep is; a sweep of this name that is there already must be the same.

    Values may be added to a grid, points to a drawn sweep.

    Raises:
        InputError: another sweep has this name, or its folder cannot be written.
    """
    path, now = sweep.folder / "sweep.yml", _description(sweep)
    try:
        sweep.folder.mkdir(parents=True, exist_ok=True)
        before = parse(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else None
        if before is not None:
            _check(before, now, sweep)
        with draft(path) as partial:
            partial.write_text(yaml.safe_dump(now, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write to {sweep.folder}: {error}; change OUTPUT_DIR") from None


def _description(sweep: Sweep) -> dict[str, Any]:
    config = {
        k: v for k, v in values_of(sweep.base).items() if not k.startswith((*FREE, "NAME", "OUTPUT_DIR"))
    }
    return {
        "sampler": sweep.sampler, "sampler_seed": sweep.sampler_seed, "objective": sweep.objective,
        "axes": {axis.key: {**asdict(axis), "values": list(axis.values)} for axis in sweep.axes},
        "rows": {title: dict(row) for title, row in sweep.rows.items()}, "config": config,
    }  # fmt: skip


def _check(before: Any, now: dict[str, Any], sweep: Sweep) -> None:
    advice = f"go on with the same command, or give this sweep another NAME ({sweep.folder} is taken)"
    if not isinstance(before, dict) or set(before) != set(now):
        raise InputError(f"{sweep.folder / 'sweep.yml'} is damaged: {advice}")
    found = differing([before["config"], now["config"]])
    if found:
        was, wanted = before["config"].get(found[0]), now["config"].get(found[0])
        raise InputError(f"the sweep {sweep.folder.name} has {found[0]} {was}, not {wanted}: {advice}")
    if list(before["axes"]) != list(now["axes"]):
        raise InputError(
            f"the sweep {sweep.folder.name} varies {', '.join(before['axes']) or 'SEED'}: {advice}"
        )
    for name in ("sampler", "sampler_seed", *(["objective"] * (sweep.sampler == "tpe"))):
        if before[name] != now[name]:
            raise InputError(
                f"the sweep {sweep.folder.name} has {name} {before[name]}, not {now[name]}: {advice}"
            )
    moved = [key for key, axis in now["axes"].items() if axis != before["axes"][key]]
    if moved and sweep.sampler != "grid":
        raise InputError(f"the sweep {sweep.folder.name} draws {moved[0]} from other values: {advice}")
    changed = [title for title, row in now["rows"].items() if before["rows"].get(title, row) != row]
    if changed:
        raise InputError(f"the row {changed[0]!r} of the sweep {sweep.folder.name} was another: {advice}")
