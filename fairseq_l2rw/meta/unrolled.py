"""The slow oracle: dJ / dw_i by a graph of the gradient, as ``higher`` and Meta-Weight-Net have it.

    g(w) = clip( grad_theta sum_i w_i l_i(theta) / W(w) ),   theta'(w) = step(theta, g(w))
    dJ / dw = lambda . d theta' / d w

It differentiates the optimizer's step as autograd does, not by our rule's ``adjoint``. It costs a second
backward pass of the whole step and two to three times its memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fairseq_l2rw.meta import clipping
from fairseq_l2rw.meta.functional import swapped
from fairseq_l2rw.meta.records import BatchRecord, StepRecord
from fairseq_l2rw.meta.student import Student


def weight_gradient(
    student: Student,
    rule,
    optimizer,
    parameters: list[nn.Parameter],
    step: StepRecord,
    records: list[BatchRecord],
    adjoint: list[Tensor],
    normalization: str,
) -> Tensor:
    """dJ / dw_i of every row of the step, in the order of ``records``: ``[N]``, detached."""
    theta = [t.detach().clone().requires_grad_() for t in step.parameters]
    weights = [r.weights.detach().clone().requires_grad_() for r in records]
    weighted, total = 0.0, 0.0
    # the fused attention kernels have no second derivative
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        for w, record in zip(weights, records):
            with record.random_state.replayed(), swapped(student.module, parameters, theta):
                losses, _ = student.losses(record.batch)
            weighted = weighted + (w * losses).sum()
            total = total + ((w * record.sizes).sum() if normalization == "batch" else record.sizes.sum())
        stepped = [i for i, p in enumerate(parameters) if p.grad is not None]
        gradients = torch.autograd.grad(weighted / total, [theta[i] for i in stepped], create_graph=True)
        gradients = clipping.clip(list(gradients), step.max_norm)
        old = [step.parameters[i] for i in stepped]
        new = rule.step(optimizer, step.optimizer_state, [parameters[i] for i in stepped], old, gradients)
        dev = sum((adjoint[i] * t).sum() for i, t in zip(stepped, new))
        return torch.cat([g.detach() for g in torch.autograd.grad(dev, weights)])
