"""Meta-learning by second-order gradients: one Adam step that stays differentiable, and the gradient through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Parameters = Mapping[str, Tensor]


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


Loss = Callable[[], Tensor]
Average = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class MetaGradient:
    """One meta step's gradients, by name and times the loss scale, and its losses."""

    grads: dict[str, Tensor]
    train_loss: Tensor
    test_loss: Tensor


def meta_gradient(
    params: Parameters,
    train: Sequence[Loss],
    test: Callable[[Parameters], Tensor],
    inner: Callable[[Parameters, Parameters], dict[str, Tensor]],
    *,
    full: bool,
    test_weight: float = 1.0,
    scale: Tensor | None = None,
    recompute: Sequence[Loss] = (),
    average: Average = list,
) -> MetaGradient:
    """Gradient of ``mean(train) + test_weight * test(inner(params, gradient of mean(train)))``.

    With g the meta-train gradient, H its Hessian and c the meta-test gradient at θ' it is g + H (dθ'/dg)ᵀ c, and
    (dθ'/dθ)ᵀ c with ``full``. The meta-test graph is freed before the second-order pass, which visits one meta-train
    domain after the other and frees each.

    Args:
        params: leaves that require gradients.
        train: the loss of each meta-train domain at ``params``; called once, in order.
        test: the meta-test loss at other parameters.
        inner: (parameters, gradients) -> parameters, differentiable and element-wise, such as :func:`inner_adam`.
        full: False leaves out the direct path through the parameters (the original's meta-gradient).
        scale: loss scale of float16; every loss is differentiated times it. An overflow reaches the result, so that
            the scaler skips the step, but not θ'. None: none.
        recompute: the losses of ``train`` without side effects; if given, the graphs of ``train`` are freed at once and
            built anew, one at a time, for the second-order pass.
        average: means of gradients over ranks, so that several ranks take the inner and the outer step on all their
            images together. It is called three times.
    """
    names, leaves = list(params), list(params.values())
    factor = torch.ones((), device=leaves[0].device) if scale is None else scale
    first, graphs, losses = _first_order(train, leaves, factor, keep=not recompute)
    first = average(first)  # g times the scale

    slopes = [g / factor if scale is None else _finite(g / factor) for g in first]
    start = {name: p.detach().requires_grad_(full) for name, p in params.items()}
    adapted = inner(start, {name: g.requires_grad_() for name, g in zip(names, slopes)})
    trial = {name: adapted[name].detach().requires_grad_() for name in names}
    test_loss = test(trial)
    test_grad = average(list(_gradients(test_loss * factor * test_weight, list(trial.values()), keep=False)))
    wanted = [*slopes, *start.values()] if full else slopes
    through = _pull_back([adapted[name] for name in names], wanted, test_grad)
    hvp_vector, direct = through[: len(names)], through[len(names) :]

    # The loss scale stands in the first-order graph already: for half precision the vector enters with length 1.
    length = factor if scale is None else _length(hvp_vector)
    hvp_vector = hvp_vector if scale is None else [v / length for v in hvp_vector]
    rebuilt = (_gradients(loss() * factor / len(train), leaves, keep=True) for loss in recompute)
    curved = _second_order(rebuilt if recompute else _emptied(graphs), leaves, hvp_vector)
    curved = [h * (length / factor) for h in average(curved)]
    parts = zip(first, curved, direct) if full else zip(first, curved)
    grads_by_name = {name: sum(terms[1:], terms[0]) for name, terms in zip(names, parts)}
    return MetaGradient(grads_by_name, torch.stack(losses).mean(), test_loss.detach())


def _first_order(
    train: Sequence[Loss], leaves: list[Tensor], factor: Tensor, *, keep: bool
) -> tuple[list[Tensor], list[tuple[Tensor, ...]], list[Tensor]]:
    """Gradient of ``factor`` times the mean loss; its parts with their graphs if ``keep``; the losses."""
    total, graphs, losses = [torch.zeros_like(p) for p in leaves], [], []
    for domain in train:
        loss = domain()
        grads = _gradients(loss * factor / len(train), leaves, keep=keep)
        total = [t + g.detach() for t, g in zip(total, grads)]
        graphs += [grads] if keep else []
        losses.append(loss.detach())
        del loss, grads
    return total, graphs, losses


def _emptied(graphs: list[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """The graphs, each handed over and forgotten."""
    while graphs:
        yield graphs.pop()


def _second_order(
    graphs: Iterator[tuple[Tensor, ...]], leaves: list[Tensor], vector: list[Tensor]
) -> list[Tensor]:
    """Sum of the products of the gradients' Jacobians with a vector; each graph is freed before the next."""
    total = [torch.zeros_like(p) for p in leaves]
    for grads in graphs:
        total = [t + h for t, h in zip(total, _pull_back(list(grads), leaves, vector))]
        del grads
    return total


def _gradients(loss: Tensor, leaves: list[Tensor], *, keep: bool) -> tuple[Tensor, ...]:
    """Gradients of a loss, zeros where it does not depend on a leaf; ``keep`` makes them differentiable."""
    return torch.autograd.grad(loss, leaves, create_graph=keep, allow_unused=True, materialize_grads=True)


def _pull_back(outputs: list[Tensor], leaves: list[Tensor], vector: list[Tensor]) -> list[Tensor]:
    """Transposed Jacobian of the outputs times a vector; zeros for outputs that depend on nothing."""
    pairs = [(o, v) for o, v in zip(outputs, vector) if o.requires_grad]
    if not pairs:
        return [torch.zeros_like(p) for p in leaves]
    live, weights = zip(*pairs)
    return list(torch.autograd.grad(live, leaves, weights, allow_unused=True, materialize_grads=True))


def _finite(x: Tensor) -> Tensor:
    return torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)


def _length(vector: list[Tensor]) -> Tensor:
    return torch.stack([v.square().sum() for v in vector]).sum().sqrt().clamp_min(1e-30)
