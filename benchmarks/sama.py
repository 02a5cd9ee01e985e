"""SAMA's update of a reweighting teacher, written from its paper (Choe et al., NeurIPS 2023, arXiv 2310.05674).

The inverse Hessian of implicit differentiation is taken for the identity; what is left of the base optimizer is its diagonal, the
adaptation matrix du/dg of Adam; and the mixed derivative is a central difference of two base losses::

    v  = (du / dg) grad J(theta')
    dJ / d omega  ~  -( grad_omega L(theta' + e v, omega) - grad_omega L(theta' - e v, omega) ) / 2 e,     e = alpha / ||v||

It is approximate where ours is exact: the difference, theta' for theta, and Adam without its bias correction.
``tests/benchmarks/test_sama.py`` compares it with a toy problem's derivative on paper.
"""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

from fairseq_l2rw.meta.clipping import norm


def adaptation(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> list[Tensor | float]:
    """du / dg of the step just made, one diagonal a parameter; u is what the step subtracts, gradients still in place.

    For Adam, with m and s after the step and D = sqrt(s) + eps::

        du / dg = lr ((1 - beta1) / D - m (1 - beta2) g / (sqrt(s) D^2))
    """
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    out = []
    for p in parameters:
        group, state = groups[id(p)], optimizer.state[p]
        if "exp_avg_sq" not in state:
            out.append(float(group["lr"]))
            continue
        beta1, beta2 = group["betas"]
        root = state["exp_avg_sq"].sqrt()
        d = root + group["eps"]
        slope = (1 - beta2) * p.grad * state["exp_avg"] / (root * d.square()).clamp(min=torch.finfo(p.dtype).tiny)
        diagonal = group["lr"] * ((1 - beta1) / d - slope)
        out.append(torch.where(p.grad == 0, 0, diagonal))  # as ours: words that are not in the batch
    return out


def teacher_gradient(
    parameters: list[Tensor],
    dev_gradient: list[Tensor],
    diagonals: list[Tensor | float],
    base_loss: Callable[[], Tensor],
    teacher: list[Tensor],
    alpha: float = 1.0,
) -> list[Tensor]:
    """dJ / d omega.

    Args:
        parameters: theta', moved and moved back.
        dev_gradient: of J at theta'.
        diagonals: of :func:`adaptation`.
        base_loss: L at the parameters as they are, attached to omega.
        teacher: omega.
        alpha: length of the difference.
    """
    v = [d * g for d, g in zip(diagonals, dev_gradient)]
    e = alpha / (norm(v) + 1e-12)
    sides = []
    for move, back in ((e, -e), (-e, e)):
        with torch.no_grad():
            torch._foreach_add_(parameters, v, alpha=move)
        sides.append(torch.autograd.grad(base_loss(), teacher))
        with torch.no_grad():
            torch._foreach_add_(parameters, v, alpha=back)
    return [(minus - plus) / (2 * e) for plus, minus in zip(*sides)]
