"""From the config to streams of training batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from yacs.config import CfgNode

from crossreid.datasets import Batch, Split, Splits
from crossreid.datasets.camstyle_copies import Styled
from crossreid.datasets.images import ImageDataset
from crossreid.datasets.raw_crops import RawCrops
from crossreid.datasets.samplers import (
    IdentitySampler,
    PartnerSampler,
    RelabelledSampler,
    Sampler,
    ShuffledSampler,
    StyledSampler,
)
from crossreid.datasets.streams import Shown, Streams
from crossreid.datasets.transforms import Compose, iteration_generator
from crossreid.engine.augmentation import plain_transform, train_transform
from crossreid.engine.camera_style import find_copies, style_transform
from crossreid.engine.distributed import Ranks
from crossreid.engine.errors import InputError, counted
from crossreid.engine.log import LOGGER
from crossreid.engine.reading import images_of, read


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
    streams: Streams
    batch_size: int  # images of one stream a step, over all ranks
    plain: Compose  # the transform of evaluation
    seen: Counter[str] = field(default_factory=Counter)  # images that this rank's steps have used

    def augmented(self, name: str, batch: Batch, step: int) -> torch.Tensor:
        """The images of a batch of step ``step`` (from 1) as training sees them: normalised floats [B, 3, H, W]."""
        self.seen["images"] += len(batch)
        return self.domains[name].transform(batch.images, self._generator(name, step), batch.cams)

    def augmented_with_masks(
        self, name: str, batches: Mapping[str, Batch], step: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The same, and what ``beside`` has added in 0..1 [B, 3, H, W], moved with them; None where nothing was."""
        batch, masks = batches[name], batches.get(f"{name}_mask")
        self.seen["images"] += len(batch)
        generator = self._generator(name, step)
        others = None if masks is None else masks.images
        return self.domains[name].transform.together(batch.images, others, generator, batch.cams)

    def beside(self, name: str, masks: ImageDataset) -> None:
        """Let every batch of a domain bring an image of ``masks`` for each of its own: the stream NAME_mask."""
        sampler = self.streams.samplers[name]
        self.streams.add(f"{name}_mask", masks, getattr(sampler, "sampler", sampler))

    def second_view(
        self, name: str, batch: Batch, step: int, transform: Compose, view: int = 1
    ) -> torch.Tensor:
        """The images of a batch under another transform with random numbers of its own: [B, 3, H, W]."""
        return transform(batch.images, self._generator(name, step, view), batch.cams)

    def _generator(self, name: str, step: int, view: int = 0) -> torch.Generator:
        epoch, position = divmod(step - 1, len(self.streams))
        stream = list(self.domains).index(name) + view * len(self.domains)
        return iteration_generator(self.ranks.device, self.seed, epoch, position, self.ranks.rank, stream)

    def rows(self, step: int) -> dict[str, NDArray[np.int64]]:
        """Which images of each domain this rank sees in step ``step`` (from 1)."""
        return {name: rows for name, rows in self.streams.rows(step - 1).items() if name in self.domains}

    def relabel(self, name: str, labels: Callable[[], NDArray[np.int64]], instances: int) -> None:
        """Draw a domain's batches by labels that change every epoch, P identities x K images each.

        Args:
            labels: gives the current labels [N], -1 for images to leave out, the same on every rank.
            instances: K.

        Raises:
            InputError: a batch that cannot be divided into identities of K images on all ranks.
        """
        ranks, cams = self.ranks, self.domains[name].images.split.cams
        identities_of(self.batch_size, instances, ranks)
        sampler = RelabelledSampler(
            labels,
            self.batch_size // instances,
            instances,
            num_batches=len(self.streams),
            cams=cams,
            rank=ranks.rank,
            world_size=ranks.world,
            seed=self.seed + list(self.domains).index(name),
        )
        self.streams.replace(name, sampler)

    def most_repeats(self, name: str) -> int:
        """How often an image can come in one step: the end of one pass may meet the start of the next."""
        return 1 + -(-self.batch_size // len(self.domains[name].images))


def build_data(cfg: CfgNode, ranks: Ranks) -> Data:
    """Training domains and their streams.

    One source is the stream ``source``, several are ``source_0`` …; the target is ``target``, its identities hidden.

    Raises:
        InputError: a total batch that cannot be divided over streams and ranks.
        DatasetError: a dataset that is missing, empty or damaged.
    """
    sources = cfg.DATASETS.SOURCES
    batch = stream_batch(cfg, len(sources) + bool(cfg.DATASETS.ADAPT), ranks.world)
    copies, unlabelled, adapted = None, None, {}
    if cfg.DATASETS.ADAPT:  # before the sources, which are the slow part
        target = read(cfg, cfg.DATASETS.TARGET)
        unlabelled, copies = target.need_training().unlabelled(), find_copies(cfg, target)
    drawn = [name for name in sources if name.startswith("synthetic:")]
    on_disk = [name for name in sources if name not in drawn]
    labelled = {
        name: _labelled(read(cfg, name)) for name in on_disk
    }  # a missing one is reported before the slow part
    if unlabelled is not None:
        adapted["target"] = build_domain(cfg, "target", unlabelled, copies, ranks)
    labelled |= {name: _labelled(read(cfg, name)) for name in drawn}
    domains = {}
    for i, name in enumerate(sources):
        stream = "source" if len(sources) == 1 else f"source_{i}"
        domains[stream] = build_domain(cfg, stream, labelled[name], None, ranks)
    domains |= adapted
    steps, group = (
        cfg.DATALOADER.ITERS_PER_EPOCH or epoch_images(cfg, domains) // batch,
        cfg.SOLVER.ACCUMULATE,
    )
    steps = max(group, steps // group * group)  # an epoch ends with a step of the optimizer
    samplers: dict[str, Sampler] = {}
    for i, (stream, domain) in enumerate(domains.items()):
        plain = build_sampler(cfg, domain, batch, steps, ranks, cfg.SEED + i)
        styled = stream == "target" and copies is not None
        samplers[stream] = StyledSampler(plain, domain.images.choices, seed=cfg.SEED + i) if styled else plain
    feeds: dict[str, tuple[Shown, Sampler]] = {}
    for i, (name, domain) in enumerate(domains.items()):
        feeds[name] = (shown(cfg, domain, cfg.SEED + i, ranks), samplers[name])
    streams = Streams(feeds, workers=cfg.DATALOADER.WORKERS, pin_memory=ranks.device.type == "cuda")
    return Data(ranks, cfg.SEED, domains, streams, batch, plain_transform(cfg))


def epoch_images(cfg: CfgNode, domains: Mapping[str, Domain]) -> int:
    """Images of the domain that ``DATALOADER.EPOCH`` passes over once an epoch; of several sources the largest."""
    kind = cfg.DATALOADER.EPOCH
    return max(
        len(domain.images) for name, domain in domains.items() if kind in ("largest", name.split("_")[0])
    )


def _labelled(source: Splits) -> Split:
    """The training images of a source whose identity is known."""
    every = source.need_training()
    split = every.labelled()
    if len(split) < len(every):
        LOGGER.warning("%s: %d images of unknown identity left out", every.name, len(every) - len(split))
    return split


def build_domain(cfg: CfgNode, stream: str, split: Split, copies: Styled | None, ranks: Ranks) -> Domain:
    """A training domain with its augmentation; camera style and hidden identities are the target's."""
    is_target = stream == "target"
    images = images_of(cfg, split, copies if is_target else None)
    style = style_transform(cfg, images) if is_target else None
    return Domain(
        images,
        train_transform(cfg, style),
        0 if is_target else int(images.split.pids.max()) + 1,
        images.split.num_cameras,
        torch.from_numpy(images.split.cams).to(ranks.device),
    )


def shown(cfg: CfgNode, domain: Domain, seed: int, ranks: Ranks) -> Shown:
    """What training sees of a domain's images: all of them, or with ``INPUT.CROP_RAW`` boxes cut from their files."""
    options = cfg.INPUT
    if not options.CROP_RAW:
        return domain.images
    area, aspect = tuple(options.CROP_AREA), tuple(options.CROP_ASPECT)
    return RawCrops(domain.images, area, aspect, seed=seed, rank=ranks.rank)


def build_sampler(
    cfg: CfgNode, domain: Domain, batch: int, steps: int, ranks: Ranks, seed: int
) -> ShuffledSampler | IdentitySampler | PartnerSampler:
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
    identities = identities_of(batch, instances, ranks)
    if cfg.DATALOADER.ANCHORS == "images":
        return PartnerSampler(split.pids, identities, instances, **place)
    if domain.num_identities < identities:
        raise InputError(
            f"{split.name} has {domain.num_identities} identities, a batch wants {identities} (DATALOADER.BATCH_SIZE "
            f"over domains and DATALOADER.INSTANCES {instances}): lower the batch or raise INSTANCES"
        )
    cams = split.cams if cfg.DATALOADER.OTHER_CAMERAS else None
    return IdentitySampler(split.pids, identities, instances, cams=cams, **place)


def identities_of(batch: int, instances: int, ranks: Ranks) -> int:
    """How many identities of ``instances`` images make a batch.

    Raises:
        InputError: they cannot be divided over the ranks.
    """
    if batch % (instances * ranks.world):
        raise InputError(
            f"DATALOADER.INSTANCES {instances}: {batch} images of a domain a step cannot be divided into identities of "
            f"{instances} images on {counted(ranks.world, 'process', 'processes')}; change DATALOADER.BATCH_SIZE"
        )
    return batch // instances


def stream_batch(cfg: CfgNode, streams: int, world: int) -> int:
    """Images a stream gives in one step over all ranks.

    Raises:
        InputError: the total batch does not divide, or a rank's share is below two images.
    """
    total, parts = cfg.DATALOADER.BATCH_SIZE, streams * world
    if cfg.DATALOADER.ROUND_BATCH:
        unit = parts * max(1, cfg.DATALOADER.INSTANCES)
        total = max(1, round(total / unit)) * unit
    if total % parts or total // parts < 2:
        nearest = max(2, round(total / parts)) * parts
        raise InputError(
            f"DATALOADER.BATCH_SIZE {total} cannot be divided over {counted(streams, 'domain')} and "
            f"{counted(world, 'process', 'processes')} with "
            f"at least 2 images each: {nearest} would do"
        )
    return total // streams
