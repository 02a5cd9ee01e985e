"""Learning to reweight: pairs whose gradient points where the dev gradient does, each batch judged anew.

Equations, with J the per-token loss of a dev batch at the current parameters theta, BEFORE the student's step::

    c_i = grad l_i(theta) . v,   v = -grad J(theta)         (a plain SGD step from w = 0, its rate left out: it cancels)
    u_i = max(0, -c_i)                                      (c_i is dJ / dw_i at w = 0: a pair that raises J gets nothing)
    w_i = N u_i / sum_j u_j                                 (mean 1 over the micro-batch; all 0 where no pair helps)

Source: Ren, Zeng, Yang, Urtasun 2018, "Learning to Reweight Examples for Robust Deep Learning", algorithm 1. It has no
network and no memory, so every update needs a dev gradient and an influence pass: ``--meta-interval``, ``--meta-objective``
and the options of the teacher do not apply. A micro-batch is normalised by itself, so that workers need not wait for each other.
"""

from __future__ import annotations

import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta.objective import Objective
from fairseq_l2rw.meta.repeated_pass import RepeatedPass
from fairseq_l2rw.meta.reweighters import register_rule
from fairseq_l2rw.meta.reweighters.rule import Rule


@register_rule("l2r")
class LearningToReweight(Rule):
    """Weights from one influence pass before the step."""

    def __init__(self, student, parameters, config):
        super().__init__(student, parameters, config)
        self.repeated = RepeatedPass(student, self.theta, "finite-difference" if config.gradient == "finite-difference" else "forward")
        self._dev, self._influence = None, []

    def begin_update(self, updates, dev_batch, running):
        objective = Objective({}, momentum=0.0, seed=self.config.seed)
        self._dev = objective.dev_gradient(self.student, self.theta, dev_batch())
        self._influence, self.failure = [], objective.failure
        if self._dev is not None:
            running.update_dev_loss(self._dev.value)

    def weights(self, record):
        if self._dev is None:
            return torch.ones_like(record.losses)
        c = self.repeated.influence([p.detach() for p in self.theta], [-g for g in self._dev.adjoint], record)
        self._influence.append(c)
        if not torch.isfinite(c).all():
            self.failure = (
                "influences of training pairs are not finite or did not fit into memory: give a smaller --max-tokens, "
                "or train in single precision"
            )
            return torch.ones_like(record.losses)
        helps = (-c).clamp(min=0)
        total = helps.sum()
        return torch.where(total > 0, helps * (len(helps) / total), 0.0)

    def forward(self, rows):
        raise L2RWError(
            "--teacher l2r has no network: its weights exist in training only, where --influence-log writes them; "
            "give a checkpoint of another teacher"
        )

    @property
    def dev_loss(self):
        return None if self._dev is None else self._dev.value

    @property
    def influence(self):
        return self._influence
