"""Linearisation rules for fairseq's own optimizers.

fairseq's ``adam`` is not torch's: its decay is always decoupled, and epsilon is added to sqrt(s')
before the bias correction::

    theta' = theta (1 - lr wd) - a m' / (sqrt(s') + eps),    a = lr sqrt(1 - beta2^t) / (1 - beta1^t)

fairseq's ``nag`` has a formula of its own, with c = lr / (lr of the step before)::

    theta' = theta (1 - lr wd) + mu^2 c b - (1 + mu) lr g
    b' = mu c b - lr g

fairseq's ``sgd`` is torch's and needs no rule of its own.
"""

from __future__ import annotations

import math

from fairseq.optim import fused_adam
from fairseq.optim.adam import Adam
from fairseq.optim.fused_adam import FusedAdamV1
from fairseq.optim.nag import NAG

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta.linearize import StepRule, register
from fairseq_l2rw.meta.linearize.adam import AdamMoments

FusedAdamV2 = getattr(fused_adam, "FusedAdamV2", None)  # defined only where apex is installed


@register(Adam)
class FairseqAdamRule(AdamMoments):
    """Rule for :class:`fairseq.optim.adam.Adam`."""

    def scales(self, group, t):
        beta1, beta2 = group["betas"]
        return group["lr"] * math.sqrt(1 - beta2**t) / (1 - beta1**t), 1.0


@register(NAG)
class FairseqNAGRule(StepRule):
    """Rule for :class:`fairseq.optim.nag.NAG`."""

    STATE = ("momentum_buffer",)

    def hyper(self, group, state):
        lr, old = group["lr"], group.get("lr_old", group["lr"])
        correction = lr / old if old > 0 else lr
        return {"lr": lr, "mu": group["momentum"], "c": correction, "k": 1 - lr * group["weight_decay"]}

    def reads_parameters(self, h):
        return False

    def step(self, h, theta, state, g):
        b, mu = state["momentum_buffer"], h["mu"]
        new = h["k"] * theta + mu * mu * h["c"] * b - (1 + mu) * h["lr"] * g
        return new, {"momentum_buffer": mu * h["c"] * b - h["lr"] * g}

    def reverse(self, h, theta, state, g, adj_theta, adj_state):
        mu, adj_b = h["mu"], adj_state.get("momentum_buffer")
        adj_g = adj_theta * (-(1 + mu) * h["lr"])
        before = adj_theta * (mu * mu * h["c"])
        if adj_b is not None:
            adj_g = adj_g - h["lr"] * adj_b
            before = before + mu * h["c"] * adj_b
        return adj_g, h["k"] * adj_theta, {"momentum_buffer": before}


@register(FusedAdamV1, *([FusedAdamV2] if FusedAdamV2 else []))
class FusedAdamRule(StepRule):
    """apex's fused Adam, which fairseq takes on a GPU where it finds it: refused, with the remedy."""

    def check(self, optimizer):
        raise L2RWError(
            "--optimizer adam: apex's fused Adam has no linearisation rule; add --use-old-adam, or give --teacher uniform"
        )
