"""From the config to streams of training batches and to the splits of evaluation."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from yacs.config import CfgNode

from datasets import Batch, Split, Splits, load
from datasets.images import ImageDataset
from datasets.samplers import IdentitySampler, Sampler, ShuffledSampler
from datasets.streams import Streams
from datasets.transforms import (
    ColorJitter,
    Compose,
    Flip,
    Normalize,
    PadCrop,
    RandomErasing,
    Transform,
    iteration_generator,
)
from engine.distributed import Ranks
from engine.errors import InputError
from engine.log import LOGGER


@dataclass(frozen=True)
class Domain:
    """A training domain: its images, how they are augmented, how many identities and cameras it has."""

    images: ImageDataset
    transform: Compose
    num_identities: int  # 0 where the method must not know them
    num_cameras: int
    cams: torch.Tensor  # [N] camera of every image, on the training device


@dataclass(frozen=True)
class Data:
    """Everything a method needs of the data."""

    ranks: Ranks
    seed: int
    domains: Mapping[str, Domain]
    samplers: Mapping[str, Sampler]
    streams: Streams
    batch_size: int  # images of one stream a step, over all ranks
    plain: Compose  # the transform of evaluation

    def augmented(self, name: str, batch: Batch, step: int) -> torch.Tensor:
        """The images of a batch of step ``step`` (from 1) as training sees them: normalised floats [B, 3, H, W]."""
        epoch, position = divmod(step - 1, len(self.streams))
        stream = list(self.domains).index(name)
        generator = iteration_generator(
            self.ranks.device, self.seed, epoch, position, self.ranks.rank, stream
        )
        return self.domains[name].transform(batch.images, generator)

    def rows(self, step: int) -> dict[str, NDArray[np.int64]]:
        """Which rows of each domain this rank sees in step ``step`` (from 1)."""
        epoch, position = divmod(step - 1, len(self.streams))
        return {name: sampler.epoch(epoch)[position] for name, sampler in self.samplers.items()}


@dataclass(frozen=True)
class Evaluation:
    """The target's query and gallery."""

    name: str
    query: ImageDataset
    gallery: ImageDataset
    plain: Compose


def dataset_root(cfg: CfgNode) -> str:
    """``DATASETS.ROOT``, else the environment's ``REID_DATASETS``, else ``./data``."""
    return cfg.DATASETS.ROOT or os.environ.get("REID_DATASETS", "") or "data"


def read(cfg: CfgNode, name: str) -> Splits:
    """The splits of one dataset as the config wants them; its warnings go to the log."""
    options = cfg.DATASETS
    size = options.SYNTHETIC
    splits = load(
        name,
        dataset_root(cfg),
        strict=options.STRICT,
        subset=options.SUBSET,
        train_val=options.TRAIN_VAL,
        synthetic={
            "identities": size.IDENTITIES,
            "test_identities": size.TEST_IDENTITIES,
            "cameras": size.CAMERAS,
            "seed": size.SEED,
            "height": size.SIZE[0],
            "width": size.SIZE[1],
        },
    )
    for warning in splits.warnings:
        LOGGER.warning("%s: %s", name, warning)
    return splits


def images_of(cfg: CfgNode, split: Split) -> ImageDataset:
    """The decoded images of a split at the training size."""
    options = cfg.DATASETS
    return ImageDataset(
        split,
        tuple(cfg.INPUT.SIZE),
        cache=options.CACHE,
        cache_dir=options.CACHE_DIR or None,
        on_corrupt=options.ON_CORRUPT,
    )


def plain_transform(cfg: CfgNode) -> Compose:
    """Normalisation alone, for evaluation."""
    return Compose([Normalize(cfg.INPUT.MEAN, cfg.INPUT.STD)])


def train_transform(cfg: CfgNode) -> Compose:
    """The augmentation of ``INPUT``: flip, pad and crop, colour jitter, erasing, normalisation."""
    options = cfg.INPUT
    steps: list[Transform] = []
    if options.FLIP:
        steps.append(Flip(options.FLIP))
    if options.CROP and options.PAD:
        steps.append(PadCrop(options.PAD, value=options.PAD_VALUE))
    if any(options.JITTER):
        steps.append(ColorJitter(*options.JITTER))
    steps.append(Normalize(options.MEAN, options.STD))
    if options.ERASE:
        steps.append(RandomErasing(options.ERASE, area=tuple(options.ERASE_AREA), value="mean"))
    return Compose(steps)


def build_evaluation(cfg: CfgNode, name: str) -> Evaluation:
    """Query and gallery of a dataset."""
    splits = read(cfg, name)
    return Evaluation(
        name, images_of(cfg, splits.query), images_of(cfg, splits.gallery), plain_transform(cfg)
    )


def build_data(cfg: CfgNode, ranks: Ranks) -> Data:
    """Training domains and their streams.

    One source is the stream ``source``, several are ``source_0`` …; the target is ``target``, its identities hidden.

    Raises:
        InputError: a total batch that cannot be divided over streams and ranks.
        DatasetError: a dataset that is missing, empty or damaged.
    """
    sources, splits = cfg.DATASETS.SOURCES, {}
    for i, name in enumerate(sources):
        splits["source" if len(sources) == 1 else f"source_{i}"] = read(cfg, name).train
    if cfg.DATASETS.ADAPT:
        train = read(cfg, cfg.DATASETS.TARGET).train
        splits["target"] = dataclasses.replace(train, pids=np.full(len(train), -1, dtype=np.int64))
    batch = stream_batch(cfg, len(splits), ranks.world)
    transform = train_transform(cfg)
    domains, steps = {}, cfg.DATALOADER.ITERS_PER_EPOCH
    for stream, split in splits.items():
        images = images_of(cfg, split)
        split = images.split
        domains[stream] = Domain(
            images,
            transform,
            0 if stream == "target" else int(split.pids.max()) + 1,
            split.num_cameras,
            torch.from_numpy(split.cams).to(ranks.device),
        )
    steps = steps or max(1, max(len(d.images) for d in domains.values()) // batch)
    samplers = {
        stream: build_sampler(cfg, domain, batch, steps, ranks, cfg.SEED + i)
        for i, (stream, domain) in enumerate(domains.items())
    }
    streams = Streams(
        {name: (domains[name].images, samplers[name]) for name in domains},
        workers=cfg.DATALOADER.WORKERS,
        pin_memory=ranks.device.type == "cuda",
    )
    return Data(ranks, cfg.SEED, domains, samplers, streams, batch, plain_transform(cfg))


def build_sampler(
    cfg: CfgNode, domain: Domain, batch: int, steps: int, ranks: Ranks, seed: int
) -> ShuffledSampler | IdentitySampler:
    """Any images in random order, or with ``DATALOADER.INSTANCES`` P x K images of a labelled domain."""
    place: dict[str, Any] = {
        "rank": ranks.rank,
        "world_size": ranks.world,
        "seed": seed,
        "num_batches": steps,
    }
    split, instances = domain.images.split, cfg.DATALOADER.INSTANCES
    if not instances or not domain.num_identities:
        return ShuffledSampler(len(split), batch, **place)
    if batch % (instances * ranks.world):
        raise InputError(
            f"DATALOADER.INSTANCES {instances}: {batch} images of a domain a step cannot be divided into identities of "
            f"{instances} images on {ranks.world} process(es); change DATALOADER.BATCH_SIZE"
        )
    identities = batch // instances
    if domain.num_identities < identities:
        raise InputError(
            f"{split.name} has {domain.num_identities} identities, a batch wants {identities} (DATALOADER.BATCH_SIZE "
            f"over domains and DATALOADER.INSTANCES {instances}): lower the batch or raise INSTANCES"
        )
    cams = split.cams if cfg.DATALOADER.OTHER_CAMERAS else None
    return IdentitySampler(split.pids, identities, instances, cams=cams, **place)


def stream_batch(cfg: CfgNode, streams: int, world: int) -> int:
    """Images a stream gives in one step over all ranks.

    Raises:
        InputError: the total batch does not divide, or a rank's share is below two images.
    """
    total, parts = cfg.DATALOADER.BATCH_SIZE, streams * world
    if total % parts or total // parts < 2:
        nearest = max(2, round(total / parts)) * parts
        raise InputError(
            f"DATALOADER.BATCH_SIZE {total} cannot be divided over {streams} domain(s) and {world} process(es) with "
            f"at least 2 images each: {nearest} would do"
        )
    return total // streams


def on_device(streams: Streams, device: torch.device) -> Iterator[dict[str, Batch]]:
    """Batches of all streams, moved to the device without waiting for it."""
    for batches in streams:
        yield {name: batch.to(device, non_blocking=True) for name, batch in batches.items()}
