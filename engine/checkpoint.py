"""Checkpoints: written whole or not at all, read without running code, resumed bit-exactly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from yacs.config import CfgNode

from crossreid import configs
from crossreid.configs.overrides import pairs
from crossreid.engine.distributed import Ranks, unwrap
from crossreid.engine.errors import InputError
from crossreid.engine.files import write_whole
from crossreid.engine.fitting import kind, misfit, optimizer_misfit, own_options, scheduler_misfit
from crossreid.engine.identity import check_same_run
from crossreid.engine.log import LOGGER
from crossreid.modeling.weights import first_line, load_network, read_checkpoint, state_dict_of

KEPT = ("last.pt", "best.pt", "selected.pt")  # of a run, beside numbered ones
FORMAT = 1


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint to a temporary name and rename it, so that a killed run leaves the old one whole.

    Raises:
        InputError: a full disk or a folder that cannot be written.
    """
    try:
        write_whole(path, lambda file: torch.save(dict(content), file))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"cannot write {path} ({first_line(error)}): free some space or change OUTPUT_DIR"
        ) from None


def collect(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of every object of a run, plain values as they are."""
    return {
        name: (unwrap(item) if isinstance(item, nn.Module) else item).state_dict()
        if hasattr(item, "state_dict")
        else item
        for name, item in state.items()
    }


def restore(state: Mapping[str, Any], content: Mapping[str, Any], origin: str) -> None:
    """Load what ``collect`` gave back into the same objects.

    Raises:
        InputError: the checkpoint lacks an object or one has another shape (another class count, for example).
    """
    for name, item in state.items():
        if not hasattr(item, "load_state_dict"):
            continue
        if name not in content:
            raise InputError(
                f"{origin} holds no {name}: it was not written by this method, use MODEL.WEIGHTS for it"
            )
        saved, where = content[name], f"{origin} ({name})"
        if not isinstance(saved, Mapping):
            raise InputError(f"{where}: it is {kind(saved)}, not a mapping: it is damaged")
        if isinstance(item, nn.Module):
            load_network(unwrap(item), saved, where)
            continue
        if found := _misfit(item, saved):
            raise InputError(f"{where} does not fit this run: {found}")
        if isinstance(item, Optimizer):
            saved = own_options(item, saved)
        if isinstance(item, LRScheduler):  # it would take any name for an attribute of its own
            saved = {key: saved[key] for key in item.state_dict() if key in saved}
        try:
            item.load_state_dict(saved)
        except (ValueError, LookupError, RuntimeError, TypeError, AttributeError) as error:
            raise InputError(f"{where} does not fit this run ({first_line(error)})") from None


def _misfit(item: Any, saved: Any) -> str:
    """Where the saved state of an object that is no network does not fit, empty if it does."""
    if isinstance(item, Optimizer):
        return optimizer_misfit(item, saved)
    if isinstance(item, LRScheduler):
        return scheduler_misfit(item.state_dict(), saved)
    if isinstance(item, torch.amp.GradScaler):
        return misfit(item.state_dict(), saved)
    return ""  # the others check what they are given


def find_resume(wish: str, folder: Path) -> Path | None:
    """The checkpoint that ``RESUME`` means, None for a new run.

    Raises:
        InputError: a path that is not there.
    """
    if not wish:
        return None
    if wish == "auto":
        last = folder / "last.pt"
        return last if last.is_file() else None
    path = Path(wish).expanduser()
    if not path.is_file():
        raise InputError(
            f"RESUME {wish}: no such file; give a checkpoint's path, or auto for {folder / 'last.pt'}"
        )
    return path


def check_resume(cfg: CfgNode, path: Path) -> dict[str, Any]:
    """What a checkpoint holds, if this config goes on with its run.

    Raises:
        InputError: another method, a later format, or keys that would change numbers.
    """
    content, origin = read_checkpoint(path), f"RESUME {path}"
    check_format(content, origin)
    if content.get("method") != cfg.METHOD or not isinstance(content.get("engine"), dict):
        raise InputError(
            f"{origin}: not a checkpoint of METHOD {cfg.METHOD} but of {content.get('method')!r}; to start from its "
            "weights alone, set MODEL.WEIGHTS"
        )
    numbers = [content["engine"].get(name) for name in ("iteration", "epoch_length")]
    if not all(type(n) is int and n >= 0 for n in numbers) or not numbers[1]:
        raise InputError(f"{origin}: it says {numbers} of its steps: it is damaged")
    images = content.get("images", {})
    if not isinstance(images, Mapping) or not all(isinstance(text, str) for text in images.values()):
        raise InputError(f"{origin}: images is {kind(images)}, not digests by stream: it is damaged")
    if isinstance(content.get("config"), str):
        saved = configs.restore(content["config"], origin=origin)[0]
        check_same_run(saved, cfg, numbers[0] // numbers[1], origin)
    return content


def restored_config(text: str, overrides: list[str], origin: str) -> tuple[CfgNode, list[str]]:
    """The configuration that a checkpoint holds, with overrides, and its keys that this version does not know.

    Where the data folder that it remembers is not here, ``REID_DATASETS`` or ``./data`` takes its place.
    """
    root = configs.restore(text, origin=origin)[0].DATASETS.ROOT
    given = {key for key, _ in pairs(overrides)}
    if root and "DATASETS.ROOT" not in given and not os.path.isdir(root):  # noqa: PTH112 - any text may stand there
        here = os.environ.get("REID_DATASETS") or "data"
        LOGGER.warning("%s was trained on data in %s, which is not here: looking in %s", origin, root, here)
        overrides = ["DATASETS.ROOT", "''", *overrides]
    return configs.restore(text, overrides, origin=origin)


def check_format(content: Mapping[str, Any], origin: str) -> None:
    """Refuse what a later version has written.

    Raises:
        InputError: its format is newer than this version's.
    """
    if content.get("format", FORMAT) != FORMAT:
        raise InputError(
            f"{origin} is a checkpoint of format {content['format']}, this version reads {FORMAT}: use the version "
            "that wrote it"
        )


def rank_buffers(network: nn.Module, ranks: Ranks) -> list[dict[str, torch.Tensor]]:
    """Every rank's floating buffers, for a checkpoint in mid-epoch, where they still differ."""
    own = {k: v.cpu() for k, v in unwrap(network).named_buffers() if v.is_floating_point()}
    if ranks.world == 1:
        return [own]
    gathered: list[Any] = [None] * ranks.world
    dist.all_gather_object(gathered, own)
    return gathered


@torch.no_grad()
def restore_buffers(network: nn.Module, saved: Any, ranks: Ranks, origin: str) -> None:
    """Give this rank its own buffers back; with another number of ranks, all take the mean.

    Raises:
        InputError: buffers that this network does not have.
    """
    own = {k: v for k, v in unwrap(network).named_buffers() if v.is_floating_point()}
    if not isinstance(saved, list) or not saved:
        raise InputError(f"{origin} (rank_buffers): it is {kind(saved)}, not a list: it is damaged")
    if found := misfit([own] * len(saved), saved):
        raise InputError(f"{origin} (rank_buffers) does not fit this run: {found.lstrip('.')}")
    for name, buffer in own.items():
        same = len(saved) == ranks.world
        value = saved[ranks.rank][name] if same else torch.stack([s[name] for s in saved]).mean(0)
        buffer.copy_(value)


def load_weights(network: nn.Module, path: str, *, optional: tuple[str, ...] = ()) -> list[str]:
    """Copy the weights of any checkpoint into a network.

    Args:
        optional: prefixes of keys that may differ, such as ``classifier.``.

    Returns:
        The skipped keys.
    """
    return load_network(network, state_dict_of(read_checkpoint(path), path), path, optional=optional)
