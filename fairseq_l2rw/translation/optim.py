"""Linearisation rules for fairseq's own optimizers.

fairseq's ``adam`` is not torch's: its decay is always decoupled, and epsilon is added to sqrt(s')
before the bias correction::

    theta' = theta (1 - lr wd) - a m' / (sqrt(s') + eps),    a = lr sqrt(1 - beta2^t) / (1 - beta1^t)

fairseq's ``sgd`` is torch's and needs no rule of its own.
"""

from __future__ import annotations

import math

from fairseq.optim.adam import Adam

from fairseq_l2rw.meta.linearize import register
from fairseq_l2rw.meta.linearize.adam import AdamMoments


@register(Adam)
class FairseqAdamRule(AdamMoments):
    """Rule for :class:`fairseq.optim.adam.Adam`."""

    def scales(self, group, step):
        beta1, beta2 = group["betas"]
        return group["lr"] * math.sqrt(1 - beta2**step) / (1 - beta1**step), 1.0

    def decayed(self, group, theta):
        return theta * (1 - group["lr"] * group["weight_decay"])
