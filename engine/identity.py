"""A run is its config: what a resumed run may change, and what shows that its data are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from crossreid.configs.loading import values_of
from crossreid.configs.methods import method_config, method_names
from crossreid.datasets import Split
from crossreid.engine.errors import InputError

# Keys, or whole sections, that change no number of the training that is still to come
FREE = (
    "NAME", "OUTPUT_DIR", "RESUME", "IF_EXISTS", "FIRST_STAGE", "LOG", "CHECKPOINT", "TEST", "DETERMINISTIC",
    "MODEL.PRETRAINED", "MODEL.WEIGHTS", "MODEL.COMPILE", "MODEL.CHECKPOINT_STAGES",
    "DATASETS.CACHE", "DATASETS.CACHE_DIR", "DATASETS.STRICT", "DATALOADER.WORKERS",
    "DISENTANGLE.GRID", "CENTRAL_FEATURE.PICTURES",
)  # fmt: skip
BY_DIGEST = (
    "DATASETS.ROOT",
    "DATASETS.SOURCES",
    "DATASETS.TARGET",
    "DATASETS.SYNTHETIC",
)  # the files are compared
SCHEDULE = ("SOLVER.EPOCHS", "SOLVER.STEPS")  # free in what lies ahead


def check_same_run(saved: CfgNode, cfg: CfgNode, done: int, origin: str) -> None:
    """Refuse to resume with a config that changes numbers.

    Args:
        saved: the config in the checkpoint.
        done: finished epochs.
        origin: names the checkpoint.

    Raises:
        InputError: the keys that differ, with both values.
    """
    others = {method_config(name).SECTION for name in method_names() if name != cfg.METHOD}
    differences = []
    known = values_of(saved)
    for key, now in values_of(cfg).items():
        if key.startswith(FREE + BY_DIGEST) or key.split(".")[0] in others:
            continue
        before = known.get(key)
        if key in SCHEDULE:
            before, now = _past(saved, key, done), _past(cfg, key, done)
        if before != now:
            differences.append(f"{key} was {before}, is {now}")
    if differences:
        shown = "; ".join(differences[:6]) + (
            f"; and {len(differences) - 6} more" if len(differences) > 6 else ""
        )
        raise InputError(
            f"{origin}: this config differs from the checkpoint's: {shown}; set them back, or start a run of another "
            "NAME (MODEL.WEIGHTS takes the weights alone)"
        )


def _past(cfg: CfgNode, key: str, done: int) -> Any:
    """What a key of the schedule has meant for the finished epochs."""
    if key == "SOLVER.STEPS":
        return [step for step in cfg.SOLVER.STEPS if step < done]
    return cfg.SOLVER.EPOCHS if cfg.SOLVER.SCHEDULER == "cosine" else None


def digest(split: Split) -> str:
    """What tells the images of a split apart from others: names, identities and cameras in their order."""
    found = hashlib.sha256(
        "\n".join(Path(path).name for path in split.paths).encode(errors="surrogateescape")
    )
    found.update(split.pids.tobytes())
    found.update(split.cams.tobytes())
    return found.hexdigest()[:16]


def check_same_images(
    saved: Mapping[str, Any], now: Mapping[str, str], names: Mapping[str, str], origin: str
) -> None:
    """Refuse to resume on other images.

    Args:
        saved, now: digests by stream.
        names: what each stream reads, for the message.

    Raises:
        InputError: the first stream whose images differ.
    """
    for stream, found in now.items():
        if stream in saved and saved[stream] != found:
            raise InputError(
                f"{origin}: {stream} ({names[stream]}) holds other images than the run that is to be resumed; name its "
                "dataset in DATASETS, or start a run of another NAME"
            )


def claim(cfg: CfgNode, resumed: Path | None) -> CfgNode:
    """The config with a name whose checkpoints are this run's alone.

    Raises:
        InputError: a run of this name exists, and ``IF_EXISTS`` is ``refuse``.
    """
    folder = Path(cfg.OUTPUT_DIR) / "checkpoints"
    last = folder / cfg.NAME / "last.pt"
    if not last.is_file() or (resumed is not None and resumed.resolve().parent == last.parent.resolve()):
        return cfg
    if cfg.IF_EXISTS == "refuse":
        raise InputError(
            f"{last} is there: a run of this NAME exists; continue it with RESUME auto, choose another NAME, or "
            "let one be found with IF_EXISTS rename"
        )
    number = next(n for n in range(2, 10**6) if not (folder / f"{cfg.NAME}-{n}" / "last.pt").is_file())
    renamed = cfg.clone()
    renamed.defrost()
    renamed.NAME = f"{cfg.NAME}-{number}"
    renamed.freeze()
    return renamed
