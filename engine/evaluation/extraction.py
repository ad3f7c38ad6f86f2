"""Features of a whole split, extracted on all ranks."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from yacs.config import CfgNode

from crossreid.datasets.images import ImageDataset
from crossreid.datasets.transforms import Compose
from crossreid.engine.distributed import Ranks
from crossreid.engine.evaluation.retrieval import Features
from crossreid.engine.hardware import for_evaluation
from crossreid.engine.log import progress_bar
from crossreid.engine.optim import Precision
from crossreid.engine.reading import Evaluation
from crossreid.modeling.side_information import camera_rows, known_cameras


@torch.no_grad()
def extract(
    extractor: nn.Module,
    images: ImageDataset,
    transform: Compose,
    ranks: Ranks,
    precision: Precision,
    *,
    batch_size: int = 256,
    flip: bool = False,
    label: str = "features",
    rows: NDArray[np.int64] | None = None,
) -> Features:
    """Features of every image of a split, on every rank, in the split's order.

    Each rank computes a contiguous share; no image is computed twice, none is padded.

    Args:
        extractor: images [B, 3, H, W] to features [B, D] in evaluation mode; its mode is restored.
        transform: the evaluation transform.
        flip: add the features of the mirrored images, as L2-normalised vectors.
        rows: images wanted, [n]; None: all N.

    Returns:
        Features with float32 vectors [N, D] on the CPU.

    Raises:
        ModelError: a network with an embedding of cameras that does not know one of the split's.
    """
    wanted = np.arange(len(images)) if rows is None else rows
    share = np.array_split(wanted, ranks.world)[ranks.rank]
    cameras = None
    if known_cameras(extractor) is not None:
        rows_of = camera_rows(extractor, images.split.dataset, images.split.cams[wanted])  # on every rank
        assert rows_of is not None, "the network embeds cameras"
        cameras = rows_of.tensor_split(ranks.world)[ranks.rank]
    mode = extractor.training
    extractor.eval()
    bar = progress_bar(len(share), label, enabled=ranks.first)
    parts, done = [], 0
    for part in np.array_split(share, max(1, -(-len(share) // batch_size))):
        if not len(part):
            continue
        batch = images.__getitems__(part)
        pixels = transform(batch.images.to(ranks.device, non_blocking=True), None)
        beside = {} if cameras is None else {"cameras": cameras[done : done + len(part)].to(ranks.device)}
        done += len(part)
        with precision.autocast(), for_evaluation():
            vectors = extractor(pixels, **beside).float()
            if flip:
                vectors = F.normalize(vectors) + F.normalize(extractor(pixels.flip(3), **beside).float())
        parts.append(vectors.cpu())
        bar.update(len(part))
    bar.close()
    extractor.train(mode)
    vectors = torch.cat(parts) if parts else torch.empty(0, 0)
    split = images.split if rows is None else images.split.take(rows)
    return Features(
        gather_rows(vectors, ranks),
        torch.from_numpy(split.pids),
        torch.from_numpy(split.cams),
        list(split.paths),
    )


def gather_rows(rows: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """Concatenate CPU tensors [n_r, D] of all ranks in rank order; ranks may hold different numbers of rows."""
    if ranks.world == 1:
        return rows
    shapes: list[tuple[int, int]] = [(0, 0)] * ranks.world
    dist.all_gather_object(shapes, tuple(rows.shape))
    dim, most = max(d for _, d in shapes), max(n for n, _ in shapes)
    padded = torch.zeros(most, dim, device=ranks.device)
    if len(rows):
        padded[: len(rows)] = rows.to(ranks.device)
    gathered = [torch.empty_like(padded) for _ in shapes]
    dist.all_gather(gathered, padded)
    return torch.cat([part[:n].cpu() for part, (n, _) in zip(gathered, shapes)])


def extract_query_gallery(
    cfg: CfgNode, extractor: nn.Module, target: Evaluation, ranks: Ranks
) -> tuple[Features, Features]:
    """Query and gallery features of a dataset, complete on every rank."""
    query = extract_split(cfg, extractor, target.query, target.plain, ranks, "query")
    return query, extract_split(cfg, extractor, target.gallery, target.plain, ranks, "gallery")


def extract_split(
    cfg: CfgNode,
    extractor: nn.Module,
    images: ImageDataset,
    transform: Compose,
    ranks: Ranks,
    label: str,
    *,
    rows: NDArray[np.int64] | None = None,
) -> Features:
    """Features of a split as ``TEST`` wants them, complete on every rank; see ``extract``."""
    half_on_cpu = cfg.SOLVER.AMP == "float16" and ranks.device.type == "cpu"
    precision = Precision("float32" if half_on_cpu else cfg.SOLVER.AMP, ranks.device)
    return extract(
        extractor, images, transform, ranks, precision, batch_size=cfg.TEST.BATCH_SIZE, flip=cfg.TEST.FLIP,
        label=label, rows=rows,
    )  # fmt: skip
