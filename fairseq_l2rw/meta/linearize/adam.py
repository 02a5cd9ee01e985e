"""torch.optim.Adam and AdamW, and what every Adam variant shares.

Equations (g the clipped gradient; the decay is coupled in Adam, decoupled in AdamW)::

    q  = g + wd theta (coupled), else g
    m' = beta1 m + (1 - beta1) q
    s' = beta2 s + (1 - beta2) q^2
    theta' = k theta - a m' / D,    D = r sqrt(s') + eps,    k = 1 - lr wd (decoupled), else 1
    a = lr / (1 - beta1^t),    r = 1 / sqrt(1 - beta2^t)
"""

from __future__ import annotations

import math

import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta.linearize import StepRule, register

#: of the mean second moment, what an entry is held to have that had no gradient for long; about 1 - beta2
SLEEPING = 0.02


class AdamMoments(StepRule):
    """Shared by all Adam variants; a subclass says what a and r are, and how the decay is done."""

    STATE = ("exp_avg", "exp_avg_sq")

    def check(self, optimizer):
        for group in optimizer.param_groups:
            for option in ("amsgrad", "maximize"):
                if group.get(option):
                    raise L2RWError(f"--optimizer: Adam with {option}=True has no linearisation rule; switch it off")

    def scales(self, group, t) -> tuple[float, float]:
        """(a, r) of step t, counted from 1."""
        beta1, beta2 = group["betas"]
        return float(group["lr"]) / (1 - beta1**t), 1 / math.sqrt(1 - beta2**t)

    def coupled(self, group) -> bool:
        """Is the decay part of the gradient?"""
        return False

    def hyper(self, group, state):
        beta1, beta2 = group["betas"]
        a, r = self.scales(group, float(state.get("step", 0)) + 1)
        wd, coupled = group["weight_decay"], self.coupled(group)
        return {
            "beta1": beta1, "beta2": beta2, "a": a, "r": r, "eps": group["eps"],
            "coupled": wd if coupled else 0.0,
            "k": 1.0 if coupled else 1.0 - float(group["lr"]) * wd,
        }  # fmt: skip

    def reads_parameters(self, h):
        return h["coupled"] != 0

    def expected(self, state):
        """The second moment of an entry that had no gradient for long is about zero, until it has one again: its next step is
        far smaller than the moment says. So it is held above a small part of the tensor's mean."""
        s = state["exp_avg_sq"]
        return {**state, "exp_avg_sq": s.clamp(min=float(s.mean()) * SLEEPING)}

    def step(self, h, theta, state, g):
        q = g + h["coupled"] * theta if h["coupled"] else g
        m = h["beta1"] * state["exp_avg"] + (1 - h["beta1"]) * q
        s = h["beta2"] * state["exp_avg_sq"] + (1 - h["beta2"]) * q.square()
        positive = s > 0  # sqrt has no derivative at 0
        root = torch.where(positive, torch.where(positive, s, 1).sqrt(), 0)
        return h["k"] * theta - h["a"] * m / (root * h["r"] + h["eps"]), {"exp_avg": m, "exp_avg_sq": s}

    def _of_step(self, h, theta, state, g):
        """q, m', sqrt(s') and D; the last two are new tensors."""
        q = g + h["coupled"] * theta if h["coupled"] else g
        root = state["exp_avg_sq"].sqrt()
        return q, state["exp_avg"], root, (root * h["r"]).add_(h["eps"])

    def reverse(self, h, theta, state, g, adj_theta, adj_state):
        q, m, root, d = self._of_step(h, theta, state, g)
        adj_m = (adj_theta * (-h["a"])).div_(d)
        # d D / d s' = r / (2 sqrt(s')); where s' = 0, m' and q are 0 and nothing passes
        adj_s = (adj_m * m).mul_(-0.5 * h["r"]).div_(d.mul_(root)).masked_fill_(root == 0, 0)
        if adj_state:
            adj_m, adj_s = adj_m + adj_state["exp_avg"], adj_s + adj_state["exp_avg_sq"]
        adj_g = ((1 - h["beta1"]) * adj_m).addcmul_(q, adj_s, value=2 * (1 - h["beta2"]))
        before = h["k"] * adj_theta
        if h["coupled"]:
            before = before + h["coupled"] * adj_g
        return adj_g, before, {"exp_avg": h["beta1"] * adj_m, "exp_avg_sq": h["beta2"] * adj_s}

    def diagonal(self, h, theta, state, g):
        # as reverse, in place and without what falls away: -a / D (1 - beta1 - (1 - beta2) r q m' / (D sqrt(s')))
        q, m, root, d = self._of_step(h, theta, state, g)
        out = (q * m).div_(d).div_(root).nan_to_num_(0.0, 0.0, 0.0)  # where s' = 0 nothing passes
        return out.mul_((h["beta2"] - 1) * h["r"]).add_(1 - h["beta1"]).div_(d).mul_(-h["a"])


@register(torch.optim.Adam)
class AdamRule(AdamMoments):
    """Rule for :class:`torch.optim.Adam`: coupled decay unless told otherwise."""

    def coupled(self, group):
        return group["weight_decay"] != 0 and not group.get("decoupled_weight_decay")


@register(torch.optim.AdamW)
class AdamWRule(AdamMoments):
    """Rule for :class:`torch.optim.AdamW`."""
