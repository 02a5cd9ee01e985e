"""The reverse sweep: from the dev gradient to one number per example, for a window of one step.

Equations (see the package's symbols; W = sum_j w_j m_j over all workers and micro-batches,
m_i the size that w_i multiplies in the denominator, n_i or 1)::

    v   = Clip^T (d theta' / d g)^T lambda
    c_i = grad l_i(theta) . v
    dJ / dw_i = (c_i - m_i c) / W,  c = sum_j w_j c_j / W      (normalisation `batch`)
    dJ / dw_i = c_i / sum_j m_j                                  (normalisation `tokens`)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairseq_l2rw.meta import clipping
from fairseq_l2rw.meta.records import StepRecord


def step_vector(rule, optimizer, parameters: list[nn.Parameter], step: StepRecord, adjoint: list[Tensor]) -> list[Tensor]:
    """v, after the optimizer's step and before its gradients are cleared.

    Where the step's gradient is exactly zero (rows of words that are not in the batch), every
    example's is zero too; v is set to zero there, because Adam's derivative, about lr / eps where
    a gradient has always been zero, would swamp everything else. So it is for parameters without a gradient.
    """
    stepped = [(p, lam) for p, lam in zip(parameters, adjoint) if p.grad is not None]
    gradients = [p.grad for p, _ in stepped]
    vector = rule.adjoint(optimizer, step.optimizer_state, [p for p, _ in stepped], [lam for _, lam in stepped])
    vector = clipping.adjoint(gradients, step.raw_norm, step.max_norm, vector)
    vector = iter([torch.where(g == 0, 0, v) for g, v in zip(gradients, vector)])
    return [torch.zeros_like(p) if p.grad is None else next(vector) for p in parameters]


def weight_gradient(influence: Tensor, weights: Tensor, sizes: Tensor, normalization: str) -> Tensor:
    """dJ / dw_i from the influences of all rows of the step (all workers, all micro-batches): ``[N]``."""
    if normalization == "tokens":
        return influence / sizes.sum()
    total = (weights * sizes).sum()
    mean = (weights * influence).sum() / total
    return (influence - sizes * mean) / total
