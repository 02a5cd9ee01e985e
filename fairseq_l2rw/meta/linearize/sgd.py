"""torch.optim.SGD, with momentum, dampening, Nesterov and weight decay.

Equations (g the clipped gradient, b the momentum buffer)::

    d  = g + wd theta
    b' = mu b + (1 - damp) d        (first step: b' = d)
    u  = d + mu b' if Nesterov, else b' (or d where mu = 0)
    theta' = theta - lr u
"""

from __future__ import annotations

import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta.linearize import StepRule, register


@register(torch.optim.SGD)
class SGDRule(StepRule):
    """Rule for :class:`torch.optim.SGD`."""

    STATE = ("momentum_buffer",)

    def check(self, optimizer):
        if any(group.get("maximize") for group in optimizer.param_groups):
            raise L2RWError("--optimizer sgd: maximize=True has no linearisation rule; negate the loss")

    def hyper(self, group, state):
        first = state.get("momentum_buffer") is None
        return {
            "lr": float(group["lr"]),
            "wd": group["weight_decay"],
            "mu": group["momentum"],
            "keep": 1.0 if first else 1.0 - group["dampening"],
            "nesterov": group["nesterov"],
        }

    def reads_parameters(self, h):
        return False

    def step(self, h, theta, state, g):
        d = g + h["wd"] * theta
        if h["mu"] == 0:
            return theta - h["lr"] * d, state
        b = h["mu"] * state["momentum_buffer"] + h["keep"] * d
        u = d + h["mu"] * b if h["nesterov"] else b
        return theta - h["lr"] * u, {"momentum_buffer": b}

    def reverse(self, h, theta, state, g, adj_theta, adj_state):
        adj_u = adj_theta * -h["lr"]
        if h["mu"] == 0:
            adj_d, before = adj_u, {}
        else:
            adj_b = h["mu"] * adj_u if h["nesterov"] else adj_u
            if "momentum_buffer" in adj_state:
                adj_b = adj_b + adj_state["momentum_buffer"]
            adj_d = h["keep"] * adj_b
            if h["nesterov"]:
                adj_d = adj_d + adj_u
            before = {"momentum_buffer": h["mu"] * adj_b}
        return adj_d, adj_theta + h["wd"] * adj_d if h["wd"] else adj_theta, before
