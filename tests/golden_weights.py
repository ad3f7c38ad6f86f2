"""Weights and images of the recorded backbones, made from their names, so that nothing large is stored."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).parent / "golden"


def made(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """The tensor of a name: normal numbers, scaled by what the name says it is."""
    x = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
    last = name.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if last == "running_var":
        x = 0.5 + np.abs(x)
    elif last in ("running_mean", "bias"):
        x = 0.1 * x
    elif last == "weight":
        x = 1 + 0.1 * x if len(shape) == 1 else x / np.sqrt(np.prod(shape[1:]))
    elif last != "input":  # tokens, position embeddings, tables
        x = 0.2 * x
    return torch.from_numpy(np.asarray(x.astype(np.float32)))


def recorded(case: str) -> list[tuple[Any, dict[str, torch.Tensor], torch.Tensor, torch.Tensor, int]]:
    """Every setting of a case: its config, weights, images, the recorded feature and the seed."""
    found = []
    with np.load(FOLDER / f"{case}.npz") as file:
        for i in range(int(file["n_settings"])):
            seed = int(file[f"s{i}_seed"])
            names = json.loads(str(file[f"s{i}_names"]))
            state = {name: made(name, tuple(shape), seed) for name, shape in names}
            images = made("input", tuple(file[f"s{i}_input_shape"]), seed)
            config = json.loads(str(file[f"meta_s{i}_config"]))
            found.append((config, state, images, torch.from_numpy(file[f"s{i}_feature"]), seed))
    return found


def features(
    build: Callable[..., Any], case: str, dtype: torch.dtype
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What a builder's networks give, beside what was recorded."""
    pairs = []
    for config, state, images, expected, seed in recorded(case):
        network = build(config, state).to(dtype).eval()
        more: tuple[Any, ...] = ()
        if case == "vit":
            more = tuple(
                None if config[k] is None else torch.tensor(config[k]) for k in ("cam_label", "view_label")
            )
        elif case == "clip_visual" and config["camera_embedding"]:
            more = (made("cv_embed", (len(images), config["width"]), seed).to(dtype),)
        with torch.no_grad():
            out = network(images.to(dtype), *more)
        pairs.append((torch.cat(out, 1) if isinstance(out, tuple) else out, expected))
    return pairs
