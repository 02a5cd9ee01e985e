"""torch.optim.SGD, with momentum, dampening, Nesterov and weight decay.

Equations (g the clipped gradient, b the momentum buffer)::

    d  = g + wd theta
    b' = mu b + (1 - damp) d        (first step: b' = d)
    u  = d + mu b' if Nesterov, else b' (or d where mu = 0)
    theta' = theta - lr u

so d theta' / d g = -lr k, k = 1 (no momentum), (1 - damp), or 1 + mu (1 - damp) with Nesterov;
in the first step 1 - damp reads 1.
"""

from __future__ import annotations

import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta.linearize import group_of, register


@register(torch.optim.SGD)
class SGDRule:
    """Rule for :class:`torch.optim.SGD`."""

    def check(self, optimizer):
        if any(group.get("maximize") for group in optimizer.param_groups):
            raise L2RWError("--optimizer sgd: maximize=True has no linearisation rule; negate the loss")

    def snapshot(self, optimizer):
        """Momentum buffer before the step, by id(parameter); None in the first step."""
        buffers = {}
        for group in optimizer.param_groups:
            for p in group["params"]:
                buffer = optimizer.state[p].get("momentum_buffer") if p in optimizer.state else None
                buffers[id(p)] = buffer is not None
        return buffers

    def adjoint(self, optimizer, snapshot, parameters, adjoint):
        groups = group_of(optimizer)
        return [
            lam * -(groups[id(p)]["lr"] * self._gain(groups[id(p)], snapshot[id(p)]))
            for p, lam in zip(parameters, adjoint)
        ]

    @staticmethod
    def _gain(group, has_buffer):
        mu = group["momentum"]
        if mu == 0:
            return 1.0
        kept = 1.0 - group["dampening"] if has_buffer else 1.0
        return 1.0 + mu * kept if group["nesterov"] else kept

    def step(self, optimizer, snapshot, parameters, old, gradients):
        groups, new = group_of(optimizer), []
        for p, theta, g in zip(parameters, old, gradients):
            group = groups[id(p)]
            mu, keep = group["momentum"], 1.0 - group["dampening"]
            d = g + group["weight_decay"] * theta
            if mu == 0:
                update = d
            else:
                if snapshot[id(p)]:
                    # b' = mu b + keep d0 with the real step's d0: so mu b = b' - keep d0
                    real = p.grad + group["weight_decay"] * theta
                    b = optimizer.state[p]["momentum_buffer"] - keep * real + keep * d
                else:
                    b = d
                update = d + mu * b if group["nesterov"] else b
            new.append(theta - group["lr"] * update)
        return new
