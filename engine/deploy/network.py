"""The retrieval network of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from yacs.config import CfgNode

from crossreid import configs
from crossreid.engine.checkpoint import check_format, restored_config
from crossreid.engine.errors import InputError
from crossreid.engine.log import LOGGER
from crossreid.engine.methods import load_method
from crossreid.modeling.weights import load_network, read_checkpoint, state_dict_of


def load_extractor(path: Path, config: str | None, overrides: list[str]) -> tuple[CfgNode, nn.Module]:
    """The retrieval network of a checkpoint, and the config that it was trained with.

    Args:
        config: a YAML instead of the checkpoint's own config, for checkpoints that hold none.

    Raises:
        ModelError: the file is missing, damaged or of another architecture.
    """
    content = read_checkpoint(path)
    check_format(content, str(path))
    if config is None and not isinstance(content.get("config"), str):
        raise InputError(
            f"{path} holds no config: name the YAML of its network with --config, or make a checkpoint of another "
            f"project's file: crossreid convert {path} NEW.pt --to crossreid"
        )
    if config is not None:
        cfg = configs.load(config, overrides)
    else:
        cfg, unknown = restored_config(content["config"], overrides, str(path))
        if unknown:
            LOGGER.warning("%s: keys of another version are left out: %s", path, ", ".join(unknown))
    extractor = load_method(cfg.METHOD).build_extractor(cfg)
    skipped = load_network(extractor, state_dict_of(content, str(path)), str(path))
    if skipped:
        LOGGER.info("weights not needed for evaluation: %s", ", ".join(skipped))
    return cfg, extractor
