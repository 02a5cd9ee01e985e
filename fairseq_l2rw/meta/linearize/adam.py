"""torch.optim.Adam and AdamW, and what every Adam variant shares.

Equations (g the clipped gradient, plus wd theta in Adam, whose decay is coupled)::

    m' = beta1 m + (1 - beta1) g
    s' = beta2 s + (1 - beta2) g^2
    theta' = decayed(theta) - a m' / D,    D = r sqrt(s') + eps
    a = lr / (1 - beta1^t),    r = 1 / sqrt(1 - beta2^t)

hence, element by element, everything on the right read off the optimizer after its step::

    d theta' / d g = -a [ (1 - beta1) / D  -  m' r (1 - beta2) g / (sqrt(s') D^2) ]
"""

from __future__ import annotations

import math

import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta.linearize import group_of, register


class AdamMoments:
    """Shared by all Adam variants; a subclass says what a, r, the seen gradient and the decay are."""

    def check(self, optimizer):
        for group in optimizer.param_groups:
            for option in ("amsgrad", "maximize"):
                if group.get(option):
                    raise L2RWError(f"--optimizer: Adam with {option}=True has no linearisation rule; switch it off")

    def snapshot(self, optimizer):
        """theta by id(parameter) where the decay is coupled, so that ``seen`` can be formed later."""
        return {
            id(p): p.detach().clone()
            for group in optimizer.param_groups
            if self.coupled(group)
            for p in group["params"]
        }

    def scales(self, group, step) -> tuple[float, float]:
        """(a, r)."""
        beta1, beta2 = group["betas"]
        return float(group["lr"]) / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)

    def coupled(self, group) -> bool:
        """Is the decay part of the gradient?"""
        return False

    def decayed(self, group, theta):
        """theta after decoupled decay."""
        return theta

    def seen(self, group, theta, g):
        """The gradient that the moments see."""
        return g + group["weight_decay"] * theta if self.coupled(group) else g

    def adjoint(self, optimizer, snapshot, parameters, adjoint):
        groups, out = group_of(optimizer), []
        for p, lam in zip(parameters, adjoint):
            group, state = groups[id(p)], optimizer.state[p]
            beta1, beta2 = group["betas"]
            a, r = self.scales(group, float(state["step"]))
            g = self.seen(group, snapshot.get(id(p)), p.grad)
            sqrt_s = state["exp_avg_sq"].sqrt()
            d = sqrt_s * r + group["eps"]
            # d sqrt(s') / d g is (1 - beta2) g / sqrt(s'), and 0 where g = 0 (there s' may be 0 too)
            slope = torch.where(g == 0, 0, (1 - beta2) * g / sqrt_s)
            out.append(lam * (-a) * ((1 - beta1) / d - state["exp_avg"] * r * slope / d.square()))
        return out

    def step(self, optimizer, snapshot, parameters, old, gradients):
        groups, new = group_of(optimizer), []
        for p, theta, gradient in zip(parameters, old, gradients):
            group, state = groups[id(p)], optimizer.state[p]
            beta1, beta2 = group["betas"]
            a, r = self.scales(group, float(state["step"]))
            real, g = self.seen(group, theta, p.grad), self.seen(group, theta, gradient)
            # the old moments follow from the new ones and the gradient that was really used
            m = state["exp_avg"] + (1 - beta1) * (g - real)
            s = (state["exp_avg_sq"] - (1 - beta2) * real.square()).clamp(min=0) + (1 - beta2) * g.square()
            positive = s > 0  # sqrt has no derivative at 0
            sqrt_s = torch.where(positive, torch.where(positive, s, 1).sqrt(), 0)
            new.append(self.decayed(group, theta) - a * m / (sqrt_s * r + group["eps"]))
        return new


@register(torch.optim.Adam)
class AdamRule(AdamMoments):
    """Rule for :class:`torch.optim.Adam`: coupled decay unless told otherwise."""

    def coupled(self, group):
        return group["weight_decay"] != 0 and not group.get("decoupled_weight_decay")

    def decayed(self, group, theta):
        if group.get("decoupled_weight_decay"):
            return theta * (1 - float(group["lr"]) * group["weight_decay"])
        return theta


@register(torch.optim.AdamW)
class AdamWRule(AdamMoments):
    """Rule for :class:`torch.optim.AdamW`."""

    def decayed(self, group, theta):
        return theta * (1 - float(group["lr"]) * group["weight_decay"])
