"""Influences of examples that are learnt to different degrees, made comparable.

Equations, for head k, example i with the per-token loss l_i / n_i (nats)::

    c'_i = c_i qbar_k / q_i,    q_i = max(1 - exp(-(l_i / n_i - h)), 0.01)

h is what the loss cannot fall below: with label smoothing the entropy of the smoothed target, else 0. qbar_k is the running mean of q
over the head's teacher updates. The gradient of a loss by its logits, p - y, is about as long as the part q of the probability that is
wrong. So as an example is learnt by heart its influence goes to zero, whatever kind of example it is, and with it what spoke for or
against it: the prior would take its weight back. c' keeps the sign, and speaks of the direction of the example's gradient alone. It is
no longer dJ/dw: ``--influence-normalization none`` leaves that as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairseq_l2rw.meta.features import running_mean

SMALLEST_ERROR = 0.01
DECAY = 0.95


class ErrorNormalizer:
    """c'.

    Args:
        heads: K.
        least: h, nats per token.

    Attributes:
        means: qbar of each head; None before its first teacher update.
    """

    def __init__(self, heads: int, least: float = 0.0):
        self.least = least
        self.means: list[float | None] = [None] * heads

    def __call__(self, head: int, influence: Tensor, losses: Tensor) -> Tensor:
        """Takes the examples of a teacher update into qbar.

        Args:
            head: whose update it is.
            influence: c, or W dJ/dw ``[N]``.
            losses: nats per token ``[N]``.

        Returns:
            ``[N]``, as ``influence``.
        """
        error = -torch.expm1(self.least - losses.to(influence))
        self.means[head] = running_mean(self.means[head], float(error.mean()), DECAY)
        return influence * (self.means[head] / error.clamp(min=SMALLEST_ERROR))

    def state_dict(self) -> dict:
        """Plain Python only."""
        return {"means": list(self.means)}

    def load_state_dict(self, state: dict) -> None:
        """Takes back what :meth:`state_dict` gave."""
        self.means = list(state["means"])
