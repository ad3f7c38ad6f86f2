"""The training step of ``DISENTANGLE.VARIANT arn``: each domain by itself, losses of both domains added.

Source: Li et al., Adaptation and Re-Identification Network (ARN), CVPR-W 2018, step for step as its program.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from ignite.engine import Engine
from torch.nn import functional as F
from yacs.config import CfgNode

from crossreid.datasets import Batch
from crossreid.engine.data import Data
from crossreid.engine.hardware import compiled
from crossreid.engine.method import TrainStep
from crossreid.engine.methods.common import TrainingParts
from crossreid.losses.disentangle import contrastive, masked_l2, mmd, orthogonality, reconstruction


def arn_step(cfg: CfgNode, data: Data, parts: TrainingParts, weights: Mapping[str, float]) -> TrainStep:
    """Identities, contrast and reconstruction; on both domains, once there is a target."""
    settings, device = cfg.DISENTANGLE, data.ranks.device
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (cfg.INPUT.MEAN, cfg.INPUT.STD))
    domain_gap = compiled(cfg, mmd)

    def train_step(engine: Engine, batches: Mapping[str, Batch]) -> dict[str, torch.Tensor]:
        step, pids = engine.state.iteration, batches["source"].pids
        adapt = "target" in data.domains and engine.state.epoch > settings.SOURCE_EPOCHS
        domains = ["source", "target"] if adapt else ["source"]
        shown = {name: data.augmented_with_masks(name, batches, step) for name in domains}
        with parts.precision.autocast():
            found = parts.network(*(images for images, _ in shown.values()))
        seen = list(zip(found, shown.values()))
        source = found[0]
        losses = {
            "cls": F.cross_entropy(source.logits.float(), pids),
            "ctr": contrastive(source.shared, pids, margin=settings.CTR_MARGIN),
            "rec": sum(
                (redrawn(own.images, 2 * (images * std + mean) - 1, mask) for own, (images, mask) in seen),
                start=torch.zeros((), device=device),
            ),
            "dif": sum(
                (orthogonality(own.private, own.shared, kind=settings.ORTHOGONALITY) for own, _ in seen),
                start=torch.zeros((), device=device),
            ),
        }
        if adapt:
            pair = [F.normalize(own.shared) if settings.MMD_UNIT else own.shared for own, _ in seen]
            losses["mmd"] = domain_gap(pair[1], pair[0], sigmas=settings.MMD_SIGMAS)
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        parts.precision.step(loss, parts.optimizer)
        return {name: value.detach() for name, value in {"loss": loss, **losses}.items()}

    return train_step


def redrawn(images: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Absolute difference a pixel or, with masks [B, 3, H, W], squared difference of the foreground."""
    if mask is None:
        return reconstruction(images, wanted, norm="l1")
    return masked_l2(images * mask, wanted * mask, mask)
