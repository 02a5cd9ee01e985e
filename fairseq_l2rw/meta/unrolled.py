"""The slow oracle: dJ / dw_i by a graph of the gradient, as ``higher`` and Meta-Weight-Net have it.

    g_s(w) = clip( grad_theta sum_i w_i l_i(theta_s) / W_s(w) ),   z_{s+1}(w) = step(z_s, g_s(w)),   s = 0 .. K-1
    dJ / dw = adj_theta . d theta_K / d w

It differentiates the optimizer's step as autograd does, not by our rule's ``reverse``. It costs a second backward pass of
every step and two to three times its memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fairseq_l2rw.meta import clipping
from fairseq_l2rw.meta.functional import swapped
from fairseq_l2rw.meta.hypergradient import denominator
from fairseq_l2rw.meta.records import StepRecord
from fairseq_l2rw.meta.student import Student


def weight_gradients(
    student: Student,
    rule,
    parameters: list[nn.Parameter],
    window: list[StepRecord],
    adjoint: list[Tensor],
    normalization: str,
) -> list[Tensor]:
    """dJ / dw_i of every row of each step of the window, in the order of its records: one ``[N]`` a step, detached."""
    through = len(adjoint)
    theta = [t.detach().clone().requires_grad_() for t in window[0].parameters[:through]]
    states, weights = window[0].earlier, []
    # the fused attention kernels have no second derivative
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        for step in window:
            w = [r.weights.detach().clone().requires_grad_() for r in step.records]
            weights.append(w)
            weighted: Any = 0.0
            for w_batch, record in zip(w, step.records):
                values = theta + step.parameters[through:]
                with record.random_state.replayed(), swapped(student.module, parameters, values):
                    losses, _ = student.losses(record.batch)
                weighted = weighted + (w_batch * losses).sum()
            loss = weighted / denominator(torch.cat(w), torch.cat([r.sizes for r in step.records]), normalization)
            theta, states = _step(rule, step, loss, theta, states)
        dev: Any = sum((a * t).sum() for a, t in zip(adjoint, theta))
        flat = iter(torch.autograd.grad(dev, [w for step in weights for w in step]))
    return [torch.cat([next(flat).detach() for _ in step]) for step in weights]


def _step(rule, step, loss, theta, states):
    stepped = [i for i, g in enumerate(step.gradients) if g is not None]
    gradients = torch.autograd.grad(loss, [theta[i] for i in stepped], create_graph=True)
    rest = 0.0
    if step.raw_norm is not None:  # what else was clipped with them (--meta-params)
        rest = max(step.raw_norm**2 - sum(float(g.detach().square().sum()) for g in gradients), 0.0)
    gradients = clipping.clip(list(gradients), step.max_norm, rest)
    theta, states = list(theta), list(states)
    for i, g in zip(stepped, gradients):
        theta[i], states[i] = rule.step(step.hyper[i], theta[i], states[i], g)
    return theta, states
