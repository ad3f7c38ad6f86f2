"""The inner update of meta-learning: one Adam step that stays in the graph."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def inner_adam(
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor | None],
    *,
    lr: float | Tensor,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
) -> dict[str, Tensor]:
    """Parameters after one Adam step from zero moments, differentiable in parameters and gradients.

    With ``g' = g + weight_decay * theta`` the result is ``theta - lr g' / (sqrt(v) / sqrt(1 - beta_2) + 1e-8)``,
    ``v = (1 - beta_2) g'^2 + 1e-8``. The 1e-8 enters before the bias correction, so that for gradients far below
    3e-3 the step is proportional to them. beta_1 cancels in a first step and is not read.

    Args:
        params: name -> parameter; inputs are left unchanged. Detached parameters leave the gradient a path
            through ``grads`` alone (the original's meta-gradient).
        grads: name -> gradient of the same shape; None or a missing name counts as 0.
        lr: step size.
        weight_decay: share of the parameter added to its gradient.
        betas: of Adam.

    Returns:
        name -> updated parameter, in the order of ``params``.

    Raises:
        ValueError: a gradient of a name that no parameter has.

    Source: Zhao et al. (M3L), CVPR 2021, inner loop.
    """
    unknown = sorted(set(grads) - set(params))
    if unknown:
        raise ValueError(f"gradients without a parameter: {', '.join(unknown[:3])} ({len(unknown)} in all)")
    rest = 1 - betas[1]
    updated = {}
    for name, parameter in params.items():
        gradient = grads.get(name)
        decayed = weight_decay * parameter
        if gradient is not None:
            decayed = gradient + decayed
        second = (rest * decayed.square() + 1e-8).sqrt() / rest**0.5
        updated[name] = parameter - lr * (decayed / (second + 1e-8))
    return updated
