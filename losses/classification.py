"""Cross-entropy of a mixed batch over the source identities and one virtual class an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from crossreid.losses.precision import full_precision, upcast_half


def mixup_virtual_class(
    features: Tensor, weight: Tensor, pids: Tensor, agents: Tensor, lam: float | Tensor
) -> Tensor:
    """Classify mixed images as their source identity with weight lam, as a class of their own with 1 - lam.

    The virtual class of image i has the direction of its agent, the memory row of its target image, and the
    length of its source identity's classifier row: logit ``|w_{y_i}| <f_i, m_i>``. The gradient reaches
    neither that length nor the agents.

    Args:
        features: [B, D] features of the mixed images, not normalised.
        weight: [C, D] classifier of the C source identities, without bias.
        pids: [B] source identity of each pair, 0..C-1.
        agents: [B, D] memory row of each pair's target image, unit length.
        lam: weight of the source image in the mix, 0..1; a number or a tensor [].

    Returns:
        mean over the B images.

    Source: Luo, Song, Zhang, ECCV 2020.
    """
    features, weight, agents = upcast_half(features), upcast_half(weight), upcast_half(agents.detach())
    with full_precision(features):
        logits = F.linear(features, weight)  # [B, C]
    lengths = weight.detach()[pids].norm(dim=1)
    virtual = (features * agents).sum(dim=1) * lengths  # [B]
    normalizer = torch.cat([logits, virtual[:, None]], dim=1).logsumexp(dim=1)
    source = logits.gather(1, pids[:, None]).squeeze(1)
    loss: Tensor = lam * (normalizer - source) + (1 - lam) * (normalizer - virtual)  # [B]
    return loss.mean()
